"""The command line. ``main`` is its entry; each other module holds the commands of one subject.

Read in this order: ``main`` (entry, and the one place where errors become exit statuses), ``group`` (Click
with global options everywhere), ``session`` (options, workspace, who signs), ``output`` (terminal and JSON);
then the commands by subject. Nothing heavy is imported before a command needs it.
"""
