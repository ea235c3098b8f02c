// node's cluster: the primary listens and deals connections out to two workers.
const cluster = require('cluster');

if (cluster.isPrimary) {
  for (let i = 0; i < 2; i++) cluster.fork();
} else {
  require('./server.js');
}
