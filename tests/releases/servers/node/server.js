// Listens on the descriptor that it was handed and, on TERM, stops accepting and lets
// what is in flight end.
const http = require('http');
const application = require('./application.js');

const server = http.createServer(application);
process.on('SIGTERM', () => server.close());
server.listen({ fd: 3 });
