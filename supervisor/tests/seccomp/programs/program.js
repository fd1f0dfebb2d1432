// What Node programs do: just-in-time code, workers, files, sockets, processes, timers. Says "lives".
// Where ONCE is set, executing another program has to fail.
"use strict";
const assert = require("assert");
const { execFileSync } = require("child_process");
const crypto = require("crypto");
const fs = require("fs");
const http = require("http");
const os = require("os");
const zlib = require("zlib");
const { Worker } = require("worker_threads");

async function main() {
  let sum = 0;
  for (let i = 0; i < 3e6; i++) sum = (sum + i * 7) % 1000003;
  assert(Number.isInteger(sum));
  assert.equal(crypto.pbkdf2Sync("a", "b", 10, 16, "sha256").length, 16);
  await fs.promises.mkdir("node/a/b", { recursive: true });
  await fs.promises.writeFile("node/file", "content");
  assert.equal(await fs.promises.readFile("node/file", "utf8"), "content");
  const watcher = fs.watch("node");
  watcher.close();
  await fs.promises.rm("node", { recursive: true });
  await new Promise((done, failed) => zlib.gzip("x", (error) => (error ? failed(error) : done())));

  const server = http.createServer((_, response) => response.end("hello"));
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const text = await new Promise((done, failed) => {
    const request = http.get({ port: server.address().port, host: "127.0.0.1" }, (response) => {
      let text = "";
      response.on("data", (piece) => (text += piece));
      response.on("end", () => done(text));
    });
    request.on("error", failed);
  });
  assert.equal(text, "hello");
  server.close();

  const worker = new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", { eval: true });
  assert.equal(await new Promise((done, failed) => worker.on("message", done).on("error", failed)), 42);
  const child = () => execFileSync("/bin/sh", ["-c", "echo child"], { encoding: "utf8" });
  if (process.env.ONCE) assert.throws(child, { code: "ENOSYS" });
  else assert.equal(child(), "child\n");
  assert(os.cpus().length > 0 && os.networkInterfaces());
  await new Promise((done) => setTimeout(done, 1));
  console.log("lives");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
