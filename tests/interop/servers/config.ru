# What puma serves: its generation and its supervisor.
body = "generation #{ENV['GRACEFUL_RUN_GENERATION']} supervisor #{ENV['GRACEFUL_RUN_PID']}\n"
run ->(_env) { [200, { 'Content-Type' => 'text/plain', 'Content-Length' => body.bytesize.to_s }, [body]] }
