<?php
// What php-fpm serves: its generation and its supervisor.
printf("generation %s supervisor %s\n", getenv('GRACEFUL_RUN_GENERATION'), getenv('GRACEFUL_RUN_PID'));
