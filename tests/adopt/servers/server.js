// node as it comes: no signal is handled, and TERM cuts what is in flight.
const http = require('http');

const body = `generation ${process.env.GRACEFUL_RUN_GENERATION} supervisor ${process.env.GRACEFUL_RUN_PID}\n`;
// HOST:PORT, or PORT for every address.
const [port, host] = process.argv[2].split(':').reverse();
http.createServer((request, response) => {
  response.setHeader('Content-Length', Buffer.byteLength(body));
  setTimeout(() => response.end(body), 30);
}).listen(port, host);
