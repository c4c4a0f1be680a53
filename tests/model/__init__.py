"""The protocol, explored: the real code over model servers, through every state that it can reach.

The code of lookups, raises and rebuilds runs as it is, down to the commands that it sends (``replay``). The
servers are values (``servers``), and so are the states of the world (``world``), which failures change as calls do
(``fates``). A search visits them all (``explore``), for the protocol and for mutations of it (``cases``). A test of its
own shows that the model's servers answer as real ones do.
"""
