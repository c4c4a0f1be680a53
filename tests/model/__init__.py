"""The protocol, explored: the real code over model servers, through every state that it can reach.

The code of lookups, raises and rebuilds runs unchanged, down to the commands that it sends (``replay``). Servers are
values (``servers``), and so are the states of the world (``world``). Calls change a state (``answers``), and so do
failures (``failures``). A search visits all states (``explore``), for the protocol and for mutations of it (``cases``).
``test_servers`` shows that the model's servers answer as real ones do.

Cooling has states, cases and mutations of its own (``cooling``, ``cooling_mutations``, ``test_cooling``).

Two abstract models explore parts of the protocol without its code: raises while a deposed primary still answers
(``woken_primary``), and a backup that was lost or restored (``lost_backup``). ``test_abstract`` runs them.
"""
