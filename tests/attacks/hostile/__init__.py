"""Attacks that a hostile job could try, run inside an isolation level.

Run as a program: ``python -I -S hostile/__main__.py REQUEST``. Each attack runs in a process of its own
and says whether it got through; what leaves a trace outside is checked there as well. The request tells an
attack everything that an insider could know: paths, ports, process numbers.
"""
