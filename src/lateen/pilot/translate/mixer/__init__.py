"""Rules of Mixer as Envoy's configuration: what it is to ask Mixer, and what it decides by itself."""
