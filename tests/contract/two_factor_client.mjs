// The npm client with `twoFactorClient` against a running server: `node two_factor_client.mjs BASE [CODES]`.
//
// Prints what the client saw as JSON, one entry a call. CODES: a URL that answers with the app's next code for
// `?secret=`, on a server whose clock is not the machine's; without it the code is made here (RFC 6238).
import { createHmac } from "node:crypto";
import { createAuthClient } from "better-auth/client";
import { twoFactorClient } from "better-auth/client/plugins";

const [base, codes] = process.argv.slice(2);
const PASSWORD = "correct-horse-1";
const ORIGIN = "http://app.example";
const transcript = [];

function masked(value, key = "") {
  if (value instanceof Date) return "<Date>";
  if (Array.isArray(value)) return value.map((each) => masked(each, key));
  if (value && typeof value === "object") {
    // A column that was never filled is absent on some adapters; without a second factor `twoFactorEnabled` may be.
    const told = Object.entries(value).filter(([k, v]) => v !== null && !(k === "twoFactorEnabled" && v === false));
    return Object.fromEntries(told.sort().map(([k, v]) => [k, masked(v, k)]));
  }
  if (key === "totpURI") return value.replace(/secret=[A-Z2-7]+/, "secret=<secret>");
  return ["id", "userId", "token", "backupCodes", "ipAddress"].includes(key) ? `<${key}>` : value;
}

class Browser {
  constructor() {
    this.jar = new Map();
    this.set = [];
    this.redirected = [];
    const customFetchImpl = (url, options) => this.fetch(url, options);
    const onTwoFactorRedirect = (context) => this.redirected.push(context.twoFactorMethods);
    const plugins = [twoFactorClient({ onTwoFactorRedirect })];
    this.client = createAuthClient({ baseURL: base, fetchOptions: { customFetchImpl }, plugins });
  }

  async fetch(url, options = {}) {
    const headers = new Headers(options.headers);
    if ((options.method ?? "GET") !== "GET") headers.set("origin", ORIGIN);
    if (this.jar.size) headers.set("cookie", [...this.jar].map((pair) => pair.join("=")).join("; "));
    const response = await fetch(url, { ...options, headers });
    for (const line of response.headers.getSetCookie()) {
      const [pair, ...attributes] = line.split("; ");
      const [name, value] = [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)];
      if (attributes.includes("Max-Age=0")) this.jar.delete(name);
      else this.jar.set(name, value);
      this.set.push(`${name}=${value && "<value>"}; ${attributes.join("; ")}`);
    }
    return response;
  }

  async call(label, work) {
    const { data, error } = await work(this.client);
    const seen = { data: masked(data), error: masked(error) };
    const redirected = this.redirected.splice(0);
    transcript.push({ label, ...seen, cookies: this.set.splice(0), ...(redirected.length ? { redirected } : {}) });
    return data;
  }
}

async function code(uri) {
  const secret = new URL(uri).searchParams.get("secret");
  if (codes) return (await fetch(`${codes}?secret=${secret}`)).text();
  const bits = [...secret].map((c) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(c).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000)));
  const mac = createHmac("sha1", key).update(counter).digest();
  return String((mac.readUInt32BE(mac.at(-1) & 15) & 0x7fffffff) % 1_000_000).padStart(6, "0");
}

const desk = new Browser();
const phone = new Browser();
const email = "alice@example.com";
const password = PASSWORD;
await desk.call("signUp", (auth) => auth.signUp.email({ name: "Alice", email, password }));
await desk.call("enable, wrong password", (auth) => auth.twoFactor.enable({ password: "wrong-password" }));
const { totpURI, backupCodes } = await desk.call("enable", (auth) => auth.twoFactor.enable({ password }));
await desk.call("getTotpUri", (auth) => auth.twoFactor.getTotpUri({ password }));
await desk.call("verifyTotp, wrong code", (auth) => auth.twoFactor.verifyTotp({ code: "12345" }));
await desk.call("verifyTotp, the first code", async (auth) => auth.twoFactor.verifyTotp({ code: await code(totpURI) }));
await desk.call("getSession: enabled", (auth) => auth.getSession());
await desk.call("enable again", (auth) => auth.twoFactor.enable({ password }));
await desk.call("signOut", (auth) => auth.signOut());
await desk.call("signIn, wrong password", (auth) => auth.signIn.email({ email, password: "wrong-password" }));
await desk.call("signIn", (auth) => auth.signIn.email({ email, password }));
await desk.call("getSession: not yet", (auth) => auth.getSession());
await desk.call("verifyTotp, trust", async (auth) => auth.twoFactor.verifyTotp({ code: await code(totpURI), trustDevice: true }));
await desk.call("getSession: signed in", (auth) => auth.getSession());
await desk.call("signOut again", (auth) => auth.signOut());
await desk.call("signIn on a trusted device", (auth) => auth.signIn.email({ email, password }));
await phone.call("phone: signIn", (auth) => auth.signIn.email({ email, password, rememberMe: false }));
await phone.call("phone: verifyBackupCode, wrong code", (auth) => auth.twoFactor.verifyBackupCode({ code: "aaaaa-bbbbb" }));
await phone.call("phone: verifyBackupCode", (auth) => auth.twoFactor.verifyBackupCode({ code: backupCodes[0] }));
await phone.call("phone: getSession", (auth) => auth.getSession());
await phone.call("phone: generateBackupCodes", (auth) => auth.twoFactor.generateBackupCodes({ password }));
await phone.call("phone: verifyTotp in a session", async (auth) => auth.twoFactor.verifyTotp({ code: await code(totpURI) }));
await phone.call("phone: an old recovery code", (auth) => auth.twoFactor.verifyBackupCode({ code: backupCodes[1] }));
await phone.call("phone: disable, wrong password", (auth) => auth.twoFactor.disable({ password: "wrong-password" }));
await phone.call("phone: disable", (auth) => auth.twoFactor.disable({ password }));
await phone.call("phone: getSession: disabled", (auth) => auth.getSession());
await phone.call("phone: signIn without", (auth) => auth.signIn.email({ email, password }));

console.log(JSON.stringify(transcript));
