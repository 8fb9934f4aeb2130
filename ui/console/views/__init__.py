"""The pages: each a function without arguments that reads the log, shows it, and changes nothing by itself."""
