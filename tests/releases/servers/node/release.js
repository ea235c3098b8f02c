// What this release does, good or bad: the second word of the file RELEASE.
//
// The link to it may lead elsewhere by the time of a restart, so the directory is looked up
// once. A bad release that serves writes each request that it begins to handle to the
// ledger, and its own end: what its clients lose then is its own doing.
const fs = require('fs');
const path = require('path');

const directory = fs.realpathSync(__dirname);
const ledger = path.join(path.dirname(directory), 'ledger');
const [name, kind] = fs.readFileSync(path.join(directory, 'RELEASE'), 'utf8').trim().split(' ');

// In one write, as others write there as well.
const write = (what) => fs.appendFileSync(ledger, `${name} ${what}\n`);

function die() {
  write(`dies ${process.pid} ${Date.now()}`);
  process.exit(1);
}

const pause = (milliseconds) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);

// What modules and caches take in an application that has grown.
function boot() {
  pause(1500);
  if (kind === 'exits') throw new Error('the settings of this release are wrong');
  if (kind === 'hangs') pause(Infinity);
  if (kind === 'dies') setTimeout(die, 3000);
}

// Before anything else is done about a request.
function begin(number) {
  if (kind === 'dies' || kind === 'crashes') write(`begins ${number}`);
  if (kind === 'crashes') die();
}

module.exports = { name, boot, begin };
