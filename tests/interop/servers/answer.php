<?php
// What PHP serves: its generation and its supervisor.
$answer = sprintf("generation %s supervisor %s\n", getenv('GRACEFUL_RUN_GENERATION'), getenv('GRACEFUL_RUN_PID'));
header('Content-Length: ' . strlen($answer));
echo $answer;
