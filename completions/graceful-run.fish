# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_graceful_run_global_optspecs
    string join \n b/bind= n/workers= export= C/chdir= E/env= env-file= env-dir= clear-env drop-env= user= umask= no-new-privs pass-fd= foreground-tty capture-stderr on-death= ack= ack-timeout= on-ack-timeout= soak= probation= surge= stop-first follow= adopt= port= drain-timeout= idle= watch= hook= hook-timeout= stop-signal= stop-timeout= max-draining= on= restart= stable= worker-watchdog= retry-start pid-file= name= socket= no-socket control-group= dry-run v/verbose q/quiet log-format= profile= h/help V/version
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

complete -c graceful-run -n "__fish_graceful_run_needs_command" -s b -l bind -d 'Bind this socket and pass it to the worker: [NAME=]ADDRESS[,OPTION]...' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s n -l workers -d 'Number of workers; each fills one slot, numbered from 0 to N-1' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l export -d 'Convention by which the worker finds its listeners; several with commas [default: listen-fds]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s C -l chdir -d 'Working directory of the worker; its path is resolved again at every start [default: $PWD]' -r -F
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s E -l env -d 'Set a variable for the worker; repeatable; overrides every other source' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l env-file -d 'Read variables from a file of K=V lines, again at every start; repeatable' -r -F
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l env-dir -d 'Read variables from a directory, one file each, again at every start; repeatable' -r -F
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l drop-env -d 'Do not pass this variable from the environment of graceful-run to the worker; repeatable' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l user -d 'Run the worker as this user and group, by name or number' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l umask -d 'Umask of the worker, octal [default: that of graceful-run]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l pass-fd -d 'Pass this descriptor to the worker as well, under the same number; repeatable' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l on-death -d 'What happens to the workers if graceful-run is killed with SIGKILL' -r -f -a "keep\t'They go on serving'
term\t'The kernel sends them TERM'"
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l ack -d 'What makes a worker ready; with several kinds, the first ack counts [default: auto, or the ack of the dialect]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l ack-timeout -d 'How long a worker may take to become ready; 0 means no limit [default: 30s]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l on-ack-timeout -d 'What to do with a worker that is not ready in time [default: abort if an ack is expected]' -r -f -a "abort\t'It has failed'
proceed\t'It counts as ready'"
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l soak -d 'How long new workers must live after the last ack before the old ones get their stop signal [default: 500ms]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l probation -d 'How long a new generation is on probation once it serves; 0 means no probation' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l surge -d 'Replace this many slots at a time instead of all at once' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l follow -d 'For a program that starts its own successor: an upgrade sends it SIG' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l adopt -d 'Whether the sockets that the server binds itself are adopted [default: auto]' -r -f -a "auto\t'As `steer`, where no sockets are handed over and this machine allows it'
never\t'Not at all'
steer\t'Each generation has sockets of its own; new connections go to one generation'
share\t'All generations share one socket, which replaces that of the worker'"
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l port -d 'Adopt only this port; repeatable [default: every port and unix path that the worker binds]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l drain-timeout -d 'How long an old worker may drain before it gets its stop signal all the same; 0 means no limit' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l idle -d 'A connection counts as drained if the server sent last and no data has moved for this long' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l watch -d 'Upgrade when PATH changes; repeatable' -r -F
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l hook -d 'Run a shell command at EVENT; repeatable; hooks of one event run in the given order' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l hook-timeout -d 'How long a hook may run before it is killed' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l stop-signal -d 'Signal that asks a worker to stop; CONT follows it [default: TERM, or that of the dialect]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l stop-timeout -d 'How long a worker may take to stop before it is killed; 0 means no limit [default: 30s]' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l max-draining -d 'How many generations may drain at a time; beyond that the oldest is killed' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l on -d 'Change the meaning of a signal that graceful-run gets; repeatable' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l restart -d 'Whether a worker that ends by itself is started again' -r -f -a "always\t'Whatever its exit status is'
on-failure\t'Unless it exits with status 0'
never\t'Never; graceful-run exits with the status of the worker'"
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l stable -d 'After this lifetime of a worker, the restart delay begins at its minimum again' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l worker-watchdog -d 'Replace a worker that has not sent WATCHDOG=1 to NOTIFY_SOCKET for this long' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l pid-file -d 'Write the process id of graceful-run to this file once the first generation is ready' -r -F
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l name -d 'Name of this instance, for its control socket and its lock' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l socket -d 'Path of the control socket [default: /run/graceful-run/NAME.sock, or PID.sock]' -r -F
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l control-group -d 'Allow the members of this group to use the control socket, as well as the own user and root' -r
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l log-format -d 'Format of the log lines on stderr' -r -f -a "text\t'One sentence per line'
json\t'One JSON object per line'"
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l profile -d 'Use the profile of this server, whatever COMMAND is; none: use none [default: by the name of COMMAND]' -r -f -a "actix\t''
aiohttp\t''
apache2\t''
artisan\t''
axum\t''
beanstalkd\t''
caddy\t''
cupsd\t''
daphne\t''
dbus-daemon\t''
django\t''
dnsmasq\t''
dovecot\t''
epmd\t''
erl\t''
etcd\t''
exim4\t''
fastapi\t''
fcgiwrap\t''
feersum\t''
flask\t''
go\t''
gpg-agent\t''
gpsd\t''
granian\t''
gunicorn\t''
h2o\t''
haproxy\t''
hitch\t''
http-server\t''
http.server\t''
httpd\t''
hypercorn\t''
hypnotoad\t''
java\t''
jenkins\t''
knotd\t''
lighttpd\t''
live-server\t''
mariadbd\t''
memcached\t''
mini_httpd\t''
mojolicious\t''
morbo\t''
mosquitto\t''
mpd\t''
named\t''
next\t''
nghttpx\t''
nginx\t''
ngircd\t''
node-exporter\t''
node-watch\t''
node\t''
nodemon\t''
passenger\t''
php-fpm\t''
php\t''
plackup\t''
pm2\t''
podman\t''
postgres\t''
prometheus\t''
puma\t''
pyftpdlib\t''
rackup\t''
radicale\t''
rails\t''
redis-server\t''
rpcbind\t''
ruby-httpd\t''
serve\t''
smtpd\t''
squid\t''
sshd\t''
sslh\t''
starman\t''
start_server\t''
static-web-server\t''
stunnel\t''
thin\t''
tinyproxy\t''
traffic_server\t''
twistd\t''
unbound\t''
unicorn\t''
uvicorn\t''
uwsgi\t''
varnishd\t''
vite\t''
waitress\t''
webfsd\t''
webhook\t''
webpack-dev-server\t''
webpack\t''
none\t''"
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l clear-env -d 'Start with an empty environment for the worker'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l no-new-privs -d 'Set no_new_privs: the worker and its children cannot gain privileges by executing a program'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l foreground-tty -d 'Keep the worker in the foreground process group of the terminal, to debug it there'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l capture-stderr -d 'Keep the last 20 lines of stderr of each worker, and show them when it fails'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l stop-first -d 'Stop the old worker before the new one starts'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l retry-start -d 'If the very first worker fails, try again instead of exiting'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l no-socket -d 'Run without a control socket'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -l dry-run -d 'Print what would be done with COMMAND, as one JSON object, and start nothing'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s v -l verbose -d 'Log more; given twice, even more'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s q -l quiet -d 'Log only what went wrong; given twice, only why graceful-run ended'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -s V -l version -d 'Print version'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -a "ctl" -d 'Show or control a running graceful-run'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -a "doctor" -d 'Show what this machine or container allows, and what to change'
complete -c graceful-run -n "__fish_graceful_run_needs_command" -a "profiles" -d 'Show what is known of servers'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -s V -l version -d 'Print version'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "status" -d 'Show generation, workers, listeners and the last upgrade'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "upgrade" -d 'Replace the serving generation; done when the new one serves'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "commit" -d 'Complete the upgrade that is on hold: the new generation serves alone'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "rollback" -d 'Undo the upgrade that is on hold'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "scale" -d 'Change the number of workers to N; done when they are ready'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "stop" -d 'Stop the workers and graceful-run; done when everything has ended'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "signal" -d 'Send a signal to the ready workers, whatever it does to them'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "hammer" -d 'Kill the workers that still drain'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "events" -d 'Print what happens from now on, one JSON object per line'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "reexec" -d 'Replace graceful-run itself by the binary at its path; done when the new one has taken over'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "bind" -d 'Bind one more socket; workers get it from the next upgrade on'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "unbind" -d 'Close a socket once the next upgrade has succeeded'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and not __fish_seen_subcommand_from status upgrade commit rollback scale stop signal hammer events reexec bind unbind metrics" -f -a "metrics" -d 'Print the status as metrics in the text format of Prometheus'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from status" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from status" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from status" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from status" -l watch -d 'Show it again every second, until graceful-run ends'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from status" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l hold -d 'Start only one worker of the new generation; both generations serve until `commit` or `rollback`'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l now -d 'Supersede (undo) an upgrade that is under way or on hold, instead of following it'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l no-wait -d 'Do not wait for the outcome'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from upgrade" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from commit" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from commit" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from commit" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from commit" -l no-wait -d 'Do not wait for the outcome'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from commit" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from commit" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from rollback" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from rollback" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from rollback" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from rollback" -l no-wait -d 'Do not wait for the outcome'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from rollback" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from rollback" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from scale" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from scale" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from scale" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from scale" -l no-wait -d 'Do not wait for the outcome'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from scale" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from scale" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -l now -d 'Kill the workers'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -l no-wait -d 'Do not wait for the outcome'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from stop" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from signal" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from signal" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from signal" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from signal" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from signal" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from hammer" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from hammer" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from hammer" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from hammer" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from hammer" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from events" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from events" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from events" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from events" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from events" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from reexec" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from reexec" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from reexec" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from reexec" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from reexec" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from bind" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from bind" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from bind" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from bind" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from bind" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from unbind" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from unbind" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from unbind" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from unbind" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from unbind" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from metrics" -l name -d 'Connect to the instance that was started with this --name' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from metrics" -l socket -d 'Connect to the instance with this control socket' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from metrics" -l timeout -d 'How long to wait for the outcome; then exit with 124, while the action goes on [default: 0, no limit]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from metrics" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand ctl; and __fish_seen_subcommand_from metrics" -s h -l help -d 'Print help'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -s b -l bind -d 'Bind this socket and pass it to the worker: [NAME=]ADDRESS[,OPTION]...' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -s n -l workers -d 'Number of workers; each fills one slot, numbered from 0 to N-1' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l export -d 'Convention by which the worker finds its listeners; several with commas [default: listen-fds]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -s C -l chdir -d 'Working directory of the worker; its path is resolved again at every start [default: $PWD]' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -s E -l env -d 'Set a variable for the worker; repeatable; overrides every other source' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l env-file -d 'Read variables from a file of K=V lines, again at every start; repeatable' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l env-dir -d 'Read variables from a directory, one file each, again at every start; repeatable' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l drop-env -d 'Do not pass this variable from the environment of graceful-run to the worker; repeatable' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l user -d 'Run the worker as this user and group, by name or number' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l umask -d 'Umask of the worker, octal [default: that of graceful-run]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l pass-fd -d 'Pass this descriptor to the worker as well, under the same number; repeatable' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l on-death -d 'What happens to the workers if graceful-run is killed with SIGKILL' -r -f -a "keep\t'They go on serving'
term\t'The kernel sends them TERM'"
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l ack -d 'What makes a worker ready; with several kinds, the first ack counts [default: auto, or the ack of the dialect]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l ack-timeout -d 'How long a worker may take to become ready; 0 means no limit [default: 30s]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l on-ack-timeout -d 'What to do with a worker that is not ready in time [default: abort if an ack is expected]' -r -f -a "abort\t'It has failed'
proceed\t'It counts as ready'"
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l soak -d 'How long new workers must live after the last ack before the old ones get their stop signal [default: 500ms]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l probation -d 'How long a new generation is on probation once it serves; 0 means no probation' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l surge -d 'Replace this many slots at a time instead of all at once' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l follow -d 'For a program that starts its own successor: an upgrade sends it SIG' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l adopt -d 'Whether the sockets that the server binds itself are adopted [default: auto]' -r -f -a "auto\t'As `steer`, where no sockets are handed over and this machine allows it'
never\t'Not at all'
steer\t'Each generation has sockets of its own; new connections go to one generation'
share\t'All generations share one socket, which replaces that of the worker'"
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l port -d 'Adopt only this port; repeatable [default: every port and unix path that the worker binds]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l drain-timeout -d 'How long an old worker may drain before it gets its stop signal all the same; 0 means no limit' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l idle -d 'A connection counts as drained if the server sent last and no data has moved for this long' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l watch -d 'Upgrade when PATH changes; repeatable' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l hook -d 'Run a shell command at EVENT; repeatable; hooks of one event run in the given order' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l hook-timeout -d 'How long a hook may run before it is killed' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l stop-signal -d 'Signal that asks a worker to stop; CONT follows it [default: TERM, or that of the dialect]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l stop-timeout -d 'How long a worker may take to stop before it is killed; 0 means no limit [default: 30s]' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l max-draining -d 'How many generations may drain at a time; beyond that the oldest is killed' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l on -d 'Change the meaning of a signal that graceful-run gets; repeatable' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l restart -d 'Whether a worker that ends by itself is started again' -r -f -a "always\t'Whatever its exit status is'
on-failure\t'Unless it exits with status 0'
never\t'Never; graceful-run exits with the status of the worker'"
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l stable -d 'After this lifetime of a worker, the restart delay begins at its minimum again' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l worker-watchdog -d 'Replace a worker that has not sent WATCHDOG=1 to NOTIFY_SOCKET for this long' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l pid-file -d 'Write the process id of graceful-run to this file once the first generation is ready' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l name -d 'Name of this instance, for its control socket and its lock' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l socket -d 'Path of the control socket [default: /run/graceful-run/NAME.sock, or PID.sock]' -r -F
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l control-group -d 'Allow the members of this group to use the control socket, as well as the own user and root' -r
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l log-format -d 'Format of the log lines on stderr' -r -f -a "text\t'One sentence per line'
json\t'One JSON object per line'"
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l profile -d 'Use the profile of this server, whatever COMMAND is; none: use none [default: by the name of COMMAND]' -r -f -a "actix\t''
aiohttp\t''
apache2\t''
artisan\t''
axum\t''
beanstalkd\t''
caddy\t''
cupsd\t''
daphne\t''
dbus-daemon\t''
django\t''
dnsmasq\t''
dovecot\t''
epmd\t''
erl\t''
etcd\t''
exim4\t''
fastapi\t''
fcgiwrap\t''
feersum\t''
flask\t''
go\t''
gpg-agent\t''
gpsd\t''
granian\t''
gunicorn\t''
h2o\t''
haproxy\t''
hitch\t''
http-server\t''
http.server\t''
httpd\t''
hypercorn\t''
hypnotoad\t''
java\t''
jenkins\t''
knotd\t''
lighttpd\t''
live-server\t''
mariadbd\t''
memcached\t''
mini_httpd\t''
mojolicious\t''
morbo\t''
mosquitto\t''
mpd\t''
named\t''
next\t''
nghttpx\t''
nginx\t''
ngircd\t''
node-exporter\t''
node-watch\t''
node\t''
nodemon\t''
passenger\t''
php-fpm\t''
php\t''
plackup\t''
pm2\t''
podman\t''
postgres\t''
prometheus\t''
puma\t''
pyftpdlib\t''
rackup\t''
radicale\t''
rails\t''
redis-server\t''
rpcbind\t''
ruby-httpd\t''
serve\t''
smtpd\t''
squid\t''
sshd\t''
sslh\t''
starman\t''
start_server\t''
static-web-server\t''
stunnel\t''
thin\t''
tinyproxy\t''
traffic_server\t''
twistd\t''
unbound\t''
unicorn\t''
uvicorn\t''
uwsgi\t''
varnishd\t''
vite\t''
waitress\t''
webfsd\t''
webhook\t''
webpack-dev-server\t''
webpack\t''
none\t''"
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l clear-env -d 'Start with an empty environment for the worker'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l no-new-privs -d 'Set no_new_privs: the worker and its children cannot gain privileges by executing a program'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l foreground-tty -d 'Keep the worker in the foreground process group of the terminal, to debug it there'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l capture-stderr -d 'Keep the last 20 lines of stderr of each worker, and show them when it fails'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l stop-first -d 'Stop the old worker before the new one starts'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l retry-start -d 'If the very first worker fails, try again instead of exiting'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l no-socket -d 'Run without a control socket'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -l dry-run -d 'Print what would be done with COMMAND, as one JSON object, and start nothing'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -s v -l verbose -d 'Log more; given twice, even more'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -s q -l quiet -d 'Log only what went wrong; given twice, only why graceful-run ended'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand doctor" -s V -l version -d 'Print version'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand profiles" -l json -d 'Print one JSON object on stdout, and nothing else'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand profiles" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand profiles" -s V -l version -d 'Print version'
complete -c graceful-run -n "__fish_graceful_run_using_subcommand profiles" -a "actix aiohttp apache2 artisan axum beanstalkd caddy cupsd daphne dbus-daemon django dnsmasq dovecot epmd erl etcd exim4 fastapi fcgiwrap feersum flask go gpg-agent gpsd granian gunicorn h2o haproxy hitch http-server http.server httpd hypercorn hypnotoad java jenkins knotd lighttpd live-server mariadbd memcached mini_httpd mojolicious morbo mosquitto mpd named next nghttpx nginx ngircd node-exporter node-watch node nodemon passenger php-fpm php plackup pm2 podman postgres prometheus puma pyftpdlib rackup radicale rails redis-server rpcbind ruby-httpd serve smtpd squid sshd sslh starman start_server static-web-server stunnel thin tinyproxy traffic_server twistd unbound unicorn uvicorn uwsgi varnishd vite waitress webfsd webhook webpack-dev-server webpack"
