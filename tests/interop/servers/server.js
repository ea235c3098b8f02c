// Plain node: listens on the address that it is given, else on the descriptor that it was
// handed. On TERM it stops accepting and lets what is in flight end.
const http = require('http');

const body = `generation ${process.env.GRACEFUL_RUN_GENERATION} supervisor ${process.env.GRACEFUL_RUN_PID}\n`;
let closing = false;
const server = http.createServer((request, response) => {
  if (closing) response.setHeader('Connection', 'close');
  response.setHeader('Content-Length', Buffer.byteLength(body));
  response.end(body);
});
process.on('SIGTERM', () => {
  closing = true;
  server.close();
});
const [host, port] = (process.argv[2] ?? '').split(':');
server.listen(port ? { host, port } : { fd: 3 });
