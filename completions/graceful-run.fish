# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_graceful_run_global_optspecs
    string join \n b/bind= n/workers= export= C/chdir= E/env= env-file= env-dir= clear-env drop-env= user= umask= no-new-privs pass-fd= foreground-tty capture-stderr on-death= ack= ack-timeout= on-ack-timeout= soak= probation= surge= stop-first follow= adopt= port= drain-timeout= idle= watch= hook= hook-timeout= stop-signal= stop-timeout= max-draining= on= restart= stable= worker-watchdog= retry-start pid-file= name= socket= no-socket control-group= v/verbose q/quiet log-format= h/help V/version
end

function __fish_graceful_run_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_graceful_run_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_graceful_run_using_subcommand
    set -l cmd (__fish_graceful_run_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c graceful-run -n "__fish_graceful_run_needs_command" -s b -l bind -d 'Socket to hold and hand over: [NAME=]ADDRESS[,OPTION]...' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s n -l workers -d 'Number of workers, each in a slot 0..N-1' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l export -d 'How the listeners are handed over; several at once with commas [default: listen-fds]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s C -l chdir -d 'Directory of the worker, looked up anew at every start [default: $PWD]' -r -F
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s E -l env -d 'Set a variable for the worker; repeatable, the last word on it' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l env-file -d 'Read variables from a file of K=V lines, anew at every start; repeatable' -r -F
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l env-dir -d 'Read variables from a directory, one file each, anew at every start; repeatable' -r -F
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l drop-env -d 'Do not pass this variable of ours on; repeatable' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l user -d 'Run the worker as this user and group, by name or number' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l umask -d 'Umask of the worker, octal [default: ours]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l pass-fd -d 'Pass on this descriptor too, under its own number; repeatable' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l on-death -d 'What becomes of the workers if we are killed with -9' -r -f -a "keep\t'They go on serving'
term\t'The kernel sends them TERM'"
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l ack -d 'What makes a worker ready; the first of several counts [default: auto, or the dialect\'s own]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l ack-timeout -d 'How long a worker may take to become ready; 0 is for ever [default: 30s]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l on-ack-timeout -d 'What a worker is that has not become ready in time [default: abort where an ack is expected]' -r -f -a "abort\t'It has failed'
proceed\t'It counts as ready'"
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l soak -d 'How long a new generation must live after its ack before the old one is asked to stop [default: 500ms]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l probation -d 'How long a new generation is on probation once it serves; 0 is not at all' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l surge -d 'Replace this many slots at a time instead of all together' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l follow -d 'Have the program start its own successor: an upgrade sends it SIG' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l adopt -d 'Wrap a server that knows nothing of inherited sockets [default MODE: steer]' -r -f -a "steer\t'Sockets of its own for each generation; new connections go to one of them'
share\t'One socket for all of them, in the place of the worker\'s own'"
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l port -d 'Adopt only this port of the worker\'s; repeatable [default: every port that it binds]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l drain-timeout -d 'How long an old worker may serve what it has before it is asked to stop all the same; 0 is for ever' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l idle -d 'A connection on which the server spoke last, and nothing has moved for this long, counts as drained' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l watch -d 'Upgrade when PATH changes; repeatable' -r -F
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l hook -d 'Run a command of your own at EVENT, by sh; repeatable, in this order' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l hook-timeout -d 'How long a hook may run before it is killed' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l stop-signal -d 'Signal that asks a worker to stop; CONT follows it [default: TERM, or the dialect\'s own]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l stop-timeout -d 'How long a worker may take to stop before it is killed; 0 is for ever [default: 30s]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l max-draining -d 'Generations that may drain at a time; beyond that the oldest is killed' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l on -d 'Change what a signal to us means; repeatable' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l restart -d 'Whether a worker that ends by itself is started again' -r -f -a "always\t'Whatever its exit status'
on-failure\t'Unless it exits with status 0'
never\t'Never; we exit as it did'"
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l stable -d 'A worker that has lived this long has not crashed in a row' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l worker-watchdog -d 'Replace a worker that has not said WATCHDOG=1 on NOTIFY_SOCKET for this long' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l pid-file -d 'Write our process id here once the first generation is ready' -r -F
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l name -d 'A name for this instance: of its control socket, and of a lock' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l socket -d 'Where the control socket is [default: /run/graceful-run/NAME.sock, or PID.sock]' -r -F
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l control-group -d 'Let the members of this group use the control socket, beside ourselves and root' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l log-format -d 'Form of the log lines on stderr' -r -f -a "text\t'A sentence a line'
json\t'A JSON object a line'"
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l clear-env -d 'Start the worker\'s environment from nothing'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l no-new-privs -d 'The worker and its children can gain no privilege by executing'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l foreground-tty -d 'Keep the worker in the terminal\'s foreground group, to debug it there'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l capture-stderr -d 'Keep the last 20 lines of each worker\'s stderr, to tell them when it fails'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l stop-first -d 'Stop the old worker before the new one starts'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l retry-start -d 'Keep trying when the very first worker fails, instead of exiting'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l no-socket -d 'Have no control socket'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s v -l verbose -d 'Say more; twice: even more'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s q -l quiet -d 'Say only what went wrong; twice: only what ended us'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s V -l version -d 'Print version'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -a "ctl" -d 'Talk to a running graceful-run'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -a "doctor" -d 'Say what this machine or container allows, and what to change'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -s V -l version -d 'Print version'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "status" -d 'Show generation, workers, listeners and the last upgrade'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "upgrade" -d 'Replace the serving generation; done when the new one serves'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "commit" -d 'Let the generation that is on hold serve alone'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "rollback" -d 'Undo the upgrade that is on hold'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "scale" -d 'Have so many workers; done when they are ready'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "stop" -d 'Stop the workers, and end; done when everything is gone'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "signal" -d 'Pass a signal on to ready workers, whatever it does to them'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "hammer" -d 'Kill whatever is still draining'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "events" -d 'Print what happens from now on, a JSON object a line'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "reexec" -d 'Replace graceful-run itself by the binary at its path; done when that has taken over'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "bind" -d 'Hold one more socket, handed over from the next upgrade on'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "unbind" -d 'Let go of a socket once the next upgrade has succeeded'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "metrics" -d 'Print the status as numbers for a monitor, in the text format of Prometheus'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from status" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from status" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from status" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from status" -l watch -d 'Show it anew each second, until it ends'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from status" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l hold -d 'Keep both generations until `commit` or `rollback`: one worker of the new one serves beside the old'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l now -d 'Supersede the one that is under way or on hold, instead of coming after it'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l no-wait -d 'Do not wait for the outcome'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from commit" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from commit" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from commit" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from commit" -l no-wait -d 'Do not wait for the outcome'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from commit" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from commit" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from rollback" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from rollback" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from rollback" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from rollback" -l no-wait -d 'Do not wait for the outcome'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from rollback" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from rollback" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from scale" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from scale" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from scale" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from scale" -l no-wait -d 'Do not wait for the outcome'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from scale" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from scale" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -l now -d 'Kill them'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -l no-wait -d 'Do not wait for the outcome'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from signal" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from signal" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from signal" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from signal" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from signal" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from hammer" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from hammer" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from hammer" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from hammer" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from hammer" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from events" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from events" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from events" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from events" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from events" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from reexec" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from reexec" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from reexec" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from reexec" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from reexec" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from bind" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from bind" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from bind" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from bind" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from bind" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from unbind" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from unbind" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from unbind" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from unbind" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from unbind" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from metrics" -l name -d 'The one that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from metrics" -l socket -d 'The one whose control socket is here' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from metrics" -l timeout -d 'Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from metrics" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from metrics" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -s V -l version -d 'Print version'
