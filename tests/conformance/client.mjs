// A client in JavaScript, by `saltctl help client-protocol`, over Node's standard library alone.
import { createHash, createHmac } from "node:crypto";
import http from "node:http";
import net from "node:net";
import { uptime } from "node:os"; // also counts while the machine is suspended
import { createInterface } from "node:readline";

const LOOKUP = "057704f76a3a43cf015f0ee75426c8169696f339";
let config; // the first request
let registryId; // rule 3.1
let claimed = { identity: undefined, until: 0 }; // rule 3.4

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte >>> 0;
});

function crc32(text) {
  let crc = 0xffffffff;
  for (const byte of Buffer.from(text)) crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
const compare = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)); // as UTF-8, not as UTF-16

function checkId(id) {
  const fits = id !== "" && !id.includes("#") && !/\p{Surrogate}/u.test(id) && Buffer.byteLength(id) <= 2000;
  if (!fits) throw new Error("no conversation id");
}

// Redis: one connection, closed after every failure.

let connection;

function connect() {
  const url = new URL(config.redis_url);
  const socket = net.connect(Number(url.port), url.hostname).setNoDelay(true);
  const state = { socket, password: decodeURIComponent(url.password), data: Buffer.alloc(0), waiting: null };
  const fail = (error) => ((state.error ??= error), state.waiting?.());
  socket.on("error", fail);
  socket.on("close", () => fail(new Error("the connection is closed")));
  socket.on("data", (data) => {
    state.data = Buffer.concat([state.data, data]);
    if (!state.waiting) fail(new Error("a surplus reply"));
    state.waiting?.();
  });
  return state;
}

// Parse one reply at a position: [value, end], or null if it is not complete. An error reply is an Error.
function parse(data, at) {
  const end = data.indexOf("\r\n", at);
  if (end < 0) return null;
  const kind = String.fromCharCode(data[at]);
  const rest = data.toString("utf8", at + 1, end);
  if (kind === "-") return [new Error(rest), end + 2];
  if (kind === "+") return [{ status: rest }, end + 2];
  if (kind === ":") return [{ integer: rest }, end + 2];
  if (!/^(-1|\d{1,9})$/.test(rest) || !"$*".includes(kind)) throw new Error("no reply of Redis");
  const size = Number(rest);
  if (size < 0) return [null, end + 2];
  if (kind === "$") {
    const stop = end + 2 + size;
    return data.length < stop + 2 ? null : [data.subarray(end + 2, stop), stop + 2];
  }
  const found = [];
  let next = end + 2;
  for (let n = 0; n < size; n++) {
    const one = parse(data, next);
    if (one === null) return null;
    found.push(one[0]);
    next = one[1];
  }
  return [found, next];
}

async function ask(state, deadline, ...words) {
  const parts = words.map((word) => Buffer.from(word));
  const lines = parts.flatMap((part) => [Buffer.from(`$${part.length}\r\n`), part, Buffer.from("\r\n")]);
  state.socket.write(Buffer.concat([Buffer.from(`*${parts.length}\r\n`), ...lines]));
  for (;;) {
    if (state.error) throw state.error;
    const reply = parse(state.data, 0);
    if (reply) {
      if (reply[1] !== state.data.length) throw new Error("a surplus reply");
      state.data = Buffer.alloc(0);
      if (reply[0] instanceof Error) throw reply[0];
      return reply[0];
    }
    const left = deadline - performance.now();
    if (left <= 0) throw new Error("Redis does not answer in time");
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, left);
      state.waiting = () => (clearTimeout(timer), resolve());
    });
    state.waiting = null;
  }
}

// Returns the element of a verified Redis: a string, or null; throws after every other answer (rule 2.3, 2.4).
async function elementOfRedis(id) {
  const deadline = performance.now() + 1000 * config.lookup_timeout;
  try {
    if (!connection) {
      connection = connect();
      if (connection.password) await ask(connection, deadline, "AUTH", connection.password);
    }
    const words = [`${config.key_prefix}:r:${crc32(id) % config.buckets}`, `v2:${config.buckets}:${registryId}`, id];
    const reply = await ask(connection, deadline, "EVALSHA", LOOKUP, "1", ...words);
    if (!Array.isArray(reply) || reply.length !== 1) throw new Error("another reply");
    if (reply[0] !== null && !Buffer.isBuffer(reply[0])) throw new Error("another element");
    return reply[0] === null ? null : new TextDecoder("utf8", { fatal: true, ignoreBOM: true }).decode(reply[0]);
  } catch (error) {
    connection?.socket.destroy();
    connection = undefined;
    throw error;
  }
}

// DynamoDB: signed requests over HTTP.

const hash = (text) => createHash("sha256").update(text).digest("hex");
const hmac = (key, text) => createHmac("sha256", key).update(text).digest();

function sign(host, operation, body) {
  const now = new Date().toISOString().replace(/[-:]|\.\d+/g, "");
  const scope = [now.slice(0, 8), config.region, "dynamodb", "aws4_request"];
  const headers = { "content-type": "application/x-amz-json-1.0", host, "x-amz-date": now };
  headers["x-amz-target"] = `DynamoDB_20120810.${operation}`;
  const names = Object.keys(headers).join(";");
  const lines = Object.entries(headers).map(([name, value]) => `${name}:${value}\n`).join("");
  const canonical = `POST\n/\n\n${lines}\n${names}\n${hash(body)}`;
  const key = scope.reduce(hmac, `AWS4${config.secret_access_key}`);
  const signature = hmac(key, `AWS4-HMAC-SHA256\n${now}\n${scope.join("/")}\n${hash(canonical)}`).toString("hex");
  const credential = `${config.access_key_id}/${scope.join("/")}`;
  headers.authorization = `AWS4-HMAC-SHA256 Credential=${credential}, SignedHeaders=${names}, Signature=${signature}`;
  return headers;
}

function aws(operation, request) {
  const url = new URL(config.endpoint_url);
  const body = JSON.stringify(request);
  const signal = AbortSignal.timeout(1000 * config.aws_timeout);
  const options = { method: "POST", headers: sign(url.host, operation, body), signal };
  return new Promise((resolve, reject) => {
    const sent = http.request(url, options, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("error", reject);
      response.on("end", () => {
        try {
          const answer = JSON.parse(Buffer.concat(parts).toString());
          if (response.statusCode === 200) resolve(answer);
          else reject(Object.assign(new Error(`${answer.__type}`), { type: `${answer.__type}`.split("#").pop() }));
        } catch (error) {
          reject(error);
        }
      });
    });
    sent.on("error", reject);
    sent.end(body);
  });
}

async function itemsOfBackup(...ids) {
  let keys = ["#registry", ...ids].map((id) => ({ conversation_id: { S: id } }));
  const found = new Map();
  for (let attempt = 0; keys.length > 0; attempt++) {
    if (attempt === 5) throw new Error("DynamoDB leaves keys unprocessed");
    if (attempt > 0) await new Promise((resolve) => setTimeout(resolve, 50 * 2 ** attempt * Math.random()));
    const request = { [config.backup_table]: { Keys: keys, ConsistentRead: true } };
    const answer = await aws("BatchGetItem", { RequestItems: request });
    if (!answer.Responses || !answer.UnprocessedKeys) throw new Error("no answer to BatchGetItem");
    for (const item of answer.Responses[config.backup_table] ?? []) found.set(item.conversation_id.S, item);
    keys = answer.UnprocessedKeys[config.backup_table]?.Keys ?? [];
  }
  await checkRegistry(found.get("#registry"));
  return found;
}

async function checkRegistry(item) {
  const id = item?.registry_id?.S ?? "";
  if (Number(item?.registry_format?.N ?? 0) > 2) throw new Error("the registry has a newer format");
  if (!/^([0-9a-f]{12}|[0-9a-f]{16})$/.test(id)) throw new Error("no registry in this table");
  const expected = item.claimed_tables?.M?.[config.region]?.S ?? "";
  if (claimed.identity !== expected || performance.now() > claimed.until) {
    const { Table } = await aws("DescribeTable", { TableName: config.backup_table });
    if ((Table.TableId ?? `created ${Table.CreationDateTime.toFixed(3)}`) !== expected) throw new Error("restored");
    claimed = { identity: expected, until: performance.now() + 60_000 };
  }
  registryId = id;
}

// Entries (rules 5 and 6).

function whole(attribute, most = 65536) {
  const text = attribute?.N;
  if (typeof text !== "string" || !/^\d{1,10}$/.test(text) || Number(text) > most) throw new Error("damaged");
  return Number(text);
}

function entry(max, write, epoch, era, recent, boundary) {
  const sound = write >= 1 && write <= max && epoch >= 1 && era <= epoch && recent <= max;
  if (!sound || era > 0 !== recent > 0 || (boundary && era === 0)) throw new Error("damaged");
  return { max_n: max, write_n: write, recent_n: boundary ? recent : max, boundary: boundary ?? null };
}

function entryOfRedis(text) {
  if (text === null) return { max_n: 1, write_n: 1, recent_n: 1, boundary: null };
  if (/^[1-9]\d{0,9}$/.test(text)) return { max_n: +text, write_n: +text, recent_n: +text, boundary: null };
  const five = Array(5).fill("(0|[1-9]\\d{0,9})").join(" ");
  const match = new RegExp(`^${five} (?:S(.+)|N(-?(?:0|[1-9]\\d*)(?:\\.\\d*[1-9])?))?$`, "s").exec(text);
  if (!match || match[7] === "-0") throw new Error("damaged");
  const boundary = match[6] !== undefined ? { S: match[6] } : match[7] !== undefined ? { N: match[7] } : undefined;
  return entry(...match.slice(1, 6).map(Number), boundary);
}

function entryOfItem(item) {
  if (!item) return entryOfRedis(null);
  const max = whole(item.max_n);
  const write = item.write_n ? whole(item.write_n) : 1;
  if (max < 1 || write < 1) throw new Error("damaged");
  if (!item.cooling) return { max_n: max, write_n: write, recent_n: max, boundary: null };
  const { epoch, target, cool_to, era, recent_n, boundary } = item.cooling.M ?? {};
  if (boundary && !boundary.S && !boundary.N) throw new Error("damaged");
  const numbers = [target, epoch, era, recent_n].map((one) => whole(one, 1e10));
  if (write > numbers[0] || whole(cool_to) < 1 || whole(cool_to) > numbers[0]) throw new Error("damaged");
  return { ...entry(max, ...numbers, boundary), write_n: write };
}

async function lookup(id) {
  checkId(id);
  if (!registryId) await itemsOfBackup();
  const fallBack = async () => entryOfItem((await itemsOfBackup(id)).get(id)); // rule 4
  const found = await elementOfRedis(id).then(entryOfRedis).catch(fallBack);
  return { ...found, write_n: Math.min(found.write_n, found.recent_n, found.max_n) };
}

// A number of at most 130 decimal places, by its value.
const value = (number) => BigInt(`${number}.`.replace(/\.(\d*)\.?$/, (_, places) => places.padEnd(130, "0")));
function readSet(id, found, since) {
  const { S, N } = since === null ? {} : (found.boundary ?? {});
  if (typeof since === "string" ? N : S) throw new Error("the boundary has another type");
  const above = S !== undefined ? compare(since, S) >= 0 : N !== undefined && value(since.N) >= value(N);
  const n = above ? found.recent_n : found.max_n;
  return [id, ...Array.from({ length: n > 1 ? n : 0 }, (_, salt) => `${id}#${salt}`)];
}

async function queryAll(partition, since) {
  const rows = [];
  const request = { TableName: config.messages_table, ConsistentRead: true, ScanIndexForward: false };
  request.ExpressionAttributeNames = { "#p": config.partition_key, ...(since && { "#s": config.sort_key }) };
  request.ExpressionAttributeValues = { ":p": { S: partition }, ...(since && { ":s": { S: since } }) };
  request.KeyConditionExpression = since ? "#p = :p AND #s >= :s" : "#p = :p";
  do {
    const page = await aws("Query", request);
    rows.push(...page.Items);
    request.ExclusiveStartKey = page.LastEvaluatedKey;
  } while (request.ExclusiveStartKey);
  return rows;
}

const operations = {
  open: async (request) => ((config = request), {}),
  lookup: async ({ conversation_id: id, since }) => {
    const found = await lookup(id);
    return { ...found, read_set: readSet(id, found, since) };
  },
  put: async ({ conversation_id: id, sort_key, message_id, text }) => {
    const [began, { write_n }] = [uptime(), await lookup(id)];
    const partition = write_n === 1 ? id : `${id}#${crc32(message_id) % write_n}`;
    const Item = { [config.partition_key]: { S: partition }, [config.sort_key]: { S: sort_key }, text: { S: text } };
    const names = { "#s": config.sort_key };
    const condition = { ConditionExpression: "attribute_not_exists(#s)", ExpressionAttributeNames: names };
    if (uptime() - began >= config.cool_wait / 2) throw new Error("the lookup is too old"); // rule 7.3
    try {
      await aws("PutItem", { TableName: config.messages_table, Item, ...condition });
    } catch (error) {
      if (error.type !== "ConditionalCheckFailedException") throw error; // else it is written already
    }
    return { partition_key: partition };
  },
  read: async ({ conversation_id: id, since }) => {
    const partitions = readSet(id, await lookup(id), since);
    const rows = (await Promise.all(partitions.map((partition) => queryAll(partition, since)))).flat();
    const messages = new Map();
    for (const { [config.partition_key]: _, ...row } of rows) {
      messages.set(JSON.stringify(Object.entries(row).sort()), row[config.sort_key].S);
    }
    return { sort_keys: [...messages.values()].sort((a, b) => compare(b, a)) };
  },
  close: async () => (connection?.socket.destroy(), {}),
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const answer = await operations[request.op](request).catch((error) => ({ error: `${error.message || error}` }));
  process.stdout.write(`${JSON.stringify(answer)}\n`);
  if (request.op === "close") break;
}
process.exit(0);
