# unicorn: listen must be the address of the socket that is handed over.
worker_processes 2
listen '127.0.0.1:8000'
