"""What can be done from a shell? One module for each subcommand of `cp-compress`."""
