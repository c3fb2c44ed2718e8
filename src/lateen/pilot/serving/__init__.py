"""Where the model, the translation and the xDS server are wired together, and the control plane is run."""
