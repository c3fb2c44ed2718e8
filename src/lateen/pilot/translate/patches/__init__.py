"""EnvoyFilter's patches on messages that are built: what they say, what they match, what comes out.

`parse` reads a patch's value, `match` decides where it acts, `merge` and `lists` how, and `clusters`, `listeners` and
`routes` walk one message each. Pure: message and patches in; message and what happened to each patch out.
"""
