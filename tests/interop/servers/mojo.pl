# Mojolicious: its generation and its supervisor.
use Mojolicious::Lite -signatures;
my $body = "generation $ENV{GRACEFUL_RUN_GENERATION} supervisor $ENV{GRACEFUL_RUN_PID}\n";
get '/' => sub ($c) { $c->render(text => $body) };
app->log->level('warn');
app->start;
