// node as it comes: no signal is handled, and TERM cuts what is in flight.
const fs = require('fs');
const http = require('http');

const body = `generation ${process.env.GRACEFUL_RUN_GENERATION} supervisor ${process.env.GRACEFUL_RUN_PID}\n`;
// HOST:PORT, PORT for every address, or the path of a unix socket.
const [port, host] = process.argv[2].split(':').reverse();
if (port.includes('/')) fs.rmSync(port, { force: true });
http.createServer((request, response) => {
  response.setHeader('Content-Length', Buffer.byteLength(body));
  setTimeout(() => response.end(body), 30);
}).listen(...(port.includes('/') ? [port] : [port, host]));
