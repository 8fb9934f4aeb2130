"""Running untrusted programs so that they can do nothing but compute.

    spec ──> levels.run_job ──> (profile: mounts, guard, limits) ──> JobOutcome ──> collector

Invariants:
- A level is available only where its behavioural probe passed in that very profile; a job never
  runs at a lower level than it was asked to.
- What a job says about itself counts for nothing: the supervisor measures and the collector copies.

Modules: ``spec`` (what to run), ``interpreter`` (which host files a Python needs), ``bubblewrap``
(namespaces and mounts), ``guard`` (what the job's process does to itself before it becomes the
job), ``syscalls``/``refused``/``seccomp``/``landlock`` (the guard's rules), ``notify``
(hearing of what they refuse), ``meter`` (totals), ``job`` (one
run, start to last process), ``probe``/``canary`` (does the level hold here?), ``levels`` (the
public face), ``folders``, ``collector``/``formats``/``manifest`` (what comes out).
"""
