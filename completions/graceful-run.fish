complete -c graceful-run -s b -l bind -d 'Socket to hold and hand over: [NAME=]ADDRESS[,OPTION]...' -r
complete -c graceful-run -s n -l workers -d 'Number of workers, each in a slot 0..N-1' -r
complete -c graceful-run -l export -d 'How the listeners are handed over; several at once with commas [default: listen-fds]' -r
complete -c graceful-run -s C -l chdir -d 'Directory of the worker, looked up anew at every start [default: $PWD]' -r -F
complete -c graceful-run -s E -l env -d 'Set a variable for the worker; repeatable, the last word on it' -r
complete -c graceful-run -l env-file -d 'Read variables from a file of K=V lines, anew at every start; repeatable' -r -F
complete -c graceful-run -l env-dir -d 'Read variables from a directory, one file each, anew at every start; repeatable' -r -F
complete -c graceful-run -l drop-env -d 'Do not pass this variable of ours on; repeatable' -r
complete -c graceful-run -l user -d 'Run the worker as this user and group, by name or number' -r
complete -c graceful-run -l umask -d 'Umask of the worker, octal [default: ours]' -r
complete -c graceful-run -l pass-fd -d 'Pass on this descriptor too, under its own number; repeatable' -r
complete -c graceful-run -l on-death -d 'What becomes of the workers if we are killed with -9' -r -f -a "keep\t'They go on serving'
term\t'The kernel sends them TERM'"
complete -c graceful-run -l ack -d 'What makes a worker ready; the first of several counts [default: auto, or the dialect\'s own]' -r
complete -c graceful-run -l ack-timeout -d 'How long a worker may take to become ready; 0 is for ever' -r
complete -c graceful-run -l on-ack-timeout -d 'What a worker is that has not become ready in time [default: abort where an ack is expected]' -r -f -a "abort\t'It has failed'
proceed\t'It counts as ready'"
complete -c graceful-run -l soak -d 'How long a new generation must live after its ack before the old one is asked to stop' -r
complete -c graceful-run -l surge -d 'Replace this many slots at a time instead of all together' -r
complete -c graceful-run -l follow -d 'Have the program start its own successor: an upgrade sends it SIG' -r
complete -c graceful-run -l hook -d 'Run a command of your own at EVENT, by sh; repeatable, in this order' -r
complete -c graceful-run -l hook-timeout -d 'How long a hook may run before it is killed' -r
complete -c graceful-run -l stop-signal -d 'Signal that asks a worker to stop; CONT follows it [default: TERM, or the dialect\'s own]' -r
complete -c graceful-run -l stop-timeout -d 'How long a worker may take to stop before it is killed; 0 is for ever [default: 30s]' -r
complete -c graceful-run -l max-draining -d 'Generations that may drain at a time; beyond that the oldest is killed' -r
complete -c graceful-run -l on -d 'Change what a signal to us means; repeatable' -r
complete -c graceful-run -l restart -d 'Whether a worker that ends by itself is started again' -r -f -a "always\t'Whatever its exit status'
on-failure\t'Unless it exits with status 0'
never\t'Never; we exit as it did'"
complete -c graceful-run -l stable -d 'A worker that has lived this long has not crashed in a row' -r
complete -c graceful-run -l pid-file -d 'Write our process id here once the first generation is ready' -r -F
complete -c graceful-run -l log-format -d 'Form of the log lines on stderr' -r -f -a "text\t'A sentence a line'
json\t'A JSON object a line'"
complete -c graceful-run -l clear-env -d 'Start the worker\'s environment from nothing'
complete -c graceful-run -l no-new-privs -d 'The worker and its children can gain no privilege by executing'
complete -c graceful-run -l foreground-tty -d 'Keep the worker in the terminal\'s foreground group, to debug it there'
complete -c graceful-run -l capture-stderr -d 'Keep the last 20 lines of each worker\'s stderr, to tell them when it fails'
complete -c graceful-run -l stop-first -d 'Stop the old worker before the new one starts'
complete -c graceful-run -l retry-start -d 'Keep trying when the very first worker fails, instead of exiting'
complete -c graceful-run -s v -l verbose -d 'Say more; twice: even more'
complete -c graceful-run -s q -l quiet -d 'Say only what went wrong; twice: only what ended us'
complete -c graceful-run -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -s V -l version -d 'Print version'
