"""The command line: `main` finds the subcommand, each other module holds one of them."""
