"""What every floor uses: errors, durable files, typed settings, progress; imports nothing of the
project."""
