"""The command line. Law: a command imports what it needs when it runs."""
