# What Starlet and Starman serve: its generation and its supervisor.
my $body = "generation $ENV{GRACEFUL_RUN_GENERATION} supervisor $ENV{GRACEFUL_RUN_PID}\n";
sub { [200, ['Content-Type' => 'text/plain', 'Content-Length' => length $body], [$body]] };
