#!/bin/sh
# What fcgiwrap serves: its generation and its supervisor.
printf 'Content-Type: text/plain\r\n\r\ngeneration %s supervisor %s\n' "$GRACEFUL_RUN_GENERATION" "$GRACEFUL_RUN_PID"
