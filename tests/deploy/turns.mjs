// A load balancer that takes turns: turns.mjs PORT BACKEND-PORT... Each connection goes to the next one.
import net from 'node:net';

const [port, ...backends] = process.argv.slice(2).map(Number);
let turn = 0;
net
  .createServer((client) => {
    const backend = net.connect(backends[turn++ % backends.length], '127.0.0.1');
    for (const [from, to] of [[client, backend], [backend, client]]) {
      from.pipe(to);
      from.on('error', () => to.destroy());
    }
  })
  .listen(port, '127.0.0.1');
