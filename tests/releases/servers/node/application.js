// An application that takes seconds to load, and answers with its release and the number
// of the request.
const release = require('./release.js');

release.boot();

module.exports = (request, response) => {
  const number = request.url.slice(1);
  release.begin(number);
  const body = `release ${release.name} request ${number}\n`;
  response.setHeader('Content-Length', Buffer.byteLength(body));
  response.end(body);
};
