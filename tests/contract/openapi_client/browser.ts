// What a browser would ask the handlers of next.ts: PANTRY_URL=BASE node browser.js ORIGIN prints a line for each answer.
import { GET, PATCH, POST, titles } from "./next.js";

const origin: string = process.argv[2]!;
const jar = new Map<string, string>();

/** A request of the browser to the front end, with the front end's own cookie beside those of the jar. */
function asked(method: string, headers: Record<string, string> = {}, body?: unknown): Request {
  const cookie = ["theme=dark", ...[...jar].map(([name, value]) => `${name}=${value}`)].join("; ");
  const own: Record<string, string> = { cookie, ...(method === "GET" ? {} : { origin }), ...headers };
  return new Request(`${origin}/api`, { method, headers: own, body: body === undefined ? null : JSON.stringify(body) });
}

async function say(what: string, response: Response): Promise<Response> {
  const cookies = response.headers.getSetCookie();
  for (const cookie of cookies) {
    const [, name, value] = /^([^=]+)=([^;]*)/.exec(cookie)!;
    jar.set(name!, value!);
  }
  const attributes = cookies.map((cookie) => cookie.replace(/=[^;]*/, "").split("; ").map((part) => part.split("=")[0]));
  const text = await response.text();
  const data: unknown = text === "" ? null : JSON.parse(text);
  const kept = response.headers.get("cache-control");
  console.log(JSON.stringify({ what, status: response.status, kept, attributes, data }));
  return response;
}

const at = (slug: string) => ({ params: Promise.resolve({ slug }) });

console.log(JSON.stringify({ what: "titles for a stranger", data: await titles(null) }));
await say("read as a stranger", await GET(asked("GET"), at("acme-labs")));
const wrong = { email: "ada@example.com", password: "not the password of Ada" };
await say("sign in, wrong password", await POST(asked("POST", {}, wrong)));
const right = { email: "ada@example.com", password: "four quiet rivers and a spoon", callbackURL: "http://evil.example" };
await say("sign in from another site", await POST(asked("POST", { origin: "http://evil.example" }, right)));
await say("sign in", await POST(asked("POST", {}, right)));
const read = await say("read", await GET(asked("GET"), at("acme-labs")));
const tag: string = read.headers.get("etag")!;
await say("change without a tag", await PATCH(asked("PATCH", {}, { name: "Acme Ltd" }), at("acme-labs")));
const changed = { name: "Acme Ltd", slug: "stolen" };
await say("change", await PATCH(asked("PATCH", { "if-match": tag }, changed), at("acme-labs")));
await say("change with an old tag", await PATCH(asked("PATCH", { "if-match": tag }, { name: "Lost" }), at("acme-labs")));
const elsewhere = { "if-match": "*", origin: "http://evil.example" };
await say("change from another site", await PATCH(asked("PATCH", elsewhere, { name: "Evil" }), at("acme-labs")));
for (const slug of ["..", "../api/auth/get-session", "//evil.example", "acme?x=1", "%2e%2e"]) {
  await say(`read ${slug}`, await GET(asked("GET"), at(slug)));
}
await say("not there", await GET(asked("GET"), at("nobody")));
console.log(JSON.stringify({ what: "titles", data: await titles(asked("GET").headers.get("cookie")) }));
