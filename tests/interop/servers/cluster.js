// node's cluster: the primary listens, on the address that it is given, else on the
// descriptor that it was handed; the workers answer. On TERM each worker stops accepting
// and lets what is in flight end.
const cluster = require('cluster');
const http = require('http');

if (cluster.isPrimary) {
  for (let i = 0; i < 2; i++) cluster.fork();
  process.on('SIGTERM', () => cluster.disconnect());
} else {
  const body = `generation ${process.env.GRACEFUL_RUN_GENERATION} supervisor ${process.env.GRACEFUL_RUN_PID}\n`;
  const server = http.createServer((request, response) => {
    response.setHeader('Content-Length', Buffer.byteLength(body));
    response.end(body);
  });
  const [host, port] = (process.argv[2] ?? '').split(':');
  server.listen(port ? { host, port } : { fd: 3 });
}
