"""The promise on real processes under faults: what happened is written down, and checked afterwards.

``python -m tests.checker --minutes 30 --seed 7`` is the long run; a short one is among the tests.

``schedule`` says what befalls whom and when, ``roles`` are the processes that write, read, raise and rebuild,
``run`` starts and breaks the servers, ``log`` keeps what each process saw, and ``checks`` judges it.
"""
