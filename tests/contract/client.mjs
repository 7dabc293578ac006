// The npm client `better-auth/client` against a running server: `node client.mjs CONFIGURATION BASE`, MAILS=a file.
//
// Prints what the client saw as JSON: one entry a call, with what comes by chance masked. A browser is stood in for as
// far as the client needs one: a cookie jar, the Origin header, and a `window` for the session store and redirects.
import { readFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";

globalThis.window = { location: { href: "" }, addEventListener() {}, removeEventListener() {} };
const { createAuthClient } = await import("better-auth/client");
const { organizationClient } = await import("better-auth/client/plugins");

const [configuration, base] = process.argv.slice(2);
const PASSWORD = "correct-horse-1";
const SECOND = "battery-staple-2";
const THIRD = "third-secret-3";
const EVIL = "http://evil.example";
const LIMIT = 10_000; // milliseconds for anything that is waited for
const transcript = [];

// ---------------------------------------------------------------- masking

const names = new Map();
const named = (kind, value) => {
  const key = `${kind} ${value}`;
  if (!names.has(key)) names.set(key, `<${kind} ${[...names.keys()].filter((k) => k.startsWith(`${kind} `)).length + 1}>`);
  return names.get(key);
};
const DAY = 86_400_000;

function masked(value, key = "", owner = "") {
  if (value instanceof Date) {
    const days = Math.round((value - Date.now()) / DAY);
    return key === "expiresAt" ? `<Date in ${days} days>` : "<Date>";
  }
  if (Array.isArray(value)) return value.map((each) => masked(each, key, key)).sort(byText);
  // Only the fields that a validation error names are part of the contract, its words are not.
  if (value?.code === "VALIDATION_ERROR" && typeof value.message === "string")
    value = { ...value, message: [...new Set(value.message.match(/\[[^\]]*\]/g))].sort().join(" ") };
  if (value && typeof value === "object")
    // An organization that a session does not work for may be null or left out: the client's type allows both.
    return Object.fromEntries(
      Object.keys(value).filter((k) => k !== "activeOrganizationId" || value[k] !== null).sort()
        .map((k) => [k, masked(value[k], k, key)]),
    );
  if (typeof value !== "string") return value;
  // The identifier of a session is its handle in some implementations, so only its presence counts.
  if (key === "id" && owner !== "user") return "<id>";
  if (key === "userId" || key === "inviterId" || key === "id") return named("user", value);
  if (key === "organizationId" || key === "activeOrganizationId") return named("organization", value);
  if (key === "token") return named("token", value);
  return value.replaceAll(base, "<BASE>");
}
const byText = (a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1);

// ---------------------------------------------------------------- a browser

class Browser {
  constructor({ origin = base } = {}) {
    this.origin = origin;
    this.jar = new Map();
    this.set = [];
    this.client = createAuthClient({
      baseURL: base,
      plugins: configuration === "K" ? [organizationClient()] : [],
      fetchOptions: { customFetchImpl: (url, options) => this.fetch(url, options) },
    });
  }

  // Node's fetch sends `sec-fetch-mode: cors` and no Origin; a browser sends both, and Origin with every POST.
  async fetch(url, options = {}) {
    const headers = new Headers(options.headers);
    if (this.origin && (options.method ?? "GET") !== "GET") headers.set("origin", this.origin);
    if (this.jar.size) headers.set("cookie", [...this.jar].map(([name, value]) => `${name}=${value}`).join("; "));
    const response = await fetch(url, { ...options, headers });
    for (const line of response.headers.getSetCookie()) this.keep(line);
    return response;
  }

  keep(line) {
    const [pair, ...attributes] = line.split("; ");
    const [name, value] = [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)];
    if (attributes.includes("Max-Age=0")) this.jar.delete(name);
    else this.jar.set(name, value);
    // In whole hours: a cookie may be set for what is left of its session.
    const shown = attributes.map((text) => text.replace(/(?<=^Max-Age=)\d+$/, (seconds) => Math.ceil(seconds / 3600) * 3600));
    this.set.push([`${name}=${value && "<value>"}`, ...shown].join("; "));
  }

  // What was set since the last entry, so that each entry has its own.
  cookies() {
    return this.set.splice(0);
  }

  // A link of a mail, opened without following where it leads.
  async open(label, url) {
    const response = await this.fetch(url, { redirect: "manual" });
    const location = response.headers.get("location");
    const text = await response.text();
    const body = text && masked(JSON.parse(text));
    note(label, { status: response.status, location: location && withoutToken(location), body }, this);
  }

  // One call of the client, and what it gave.
  async call(label, work) {
    let seen;
    try {
      const { data, error } = await work(this.client);
      seen = { data: masked(data), error: masked(error) };
      return data;
    } catch (error) {
      seen = { thrown: masked({ name: error.name, status: error.status, statusText: error.statusText, error: error.error }) };
    } finally {
      // A call that changes the session makes the store ask again, 10 ms later: not while the next call is under way.
      if (this.watching) await this.rest();
      note(label, seen, this);
    }
  }

  // The session store, when it is as `wanted` and asks nothing, or when the time is over.
  async rest(wanted = () => true) {
    const ends = Date.now() + LIMIT;
    let state;
    do {
      await pause(25);
      state = this.client.useSession.get();
    } while (Date.now() < ends && (state.isPending || state.isRefetching || !wanted(state)));
    return state;
  }

  async store(label, wanted) {
    const { refetch, ...shown } = await this.rest(wanted);
    note(label, { store: masked(shown), refetch: typeof refetch }, this);
  }
}

function note(label, seen, browser) {
  if (transcript.some((entry) => entry.label === label)) throw new Error(`two entries are called ${label}`);
  transcript.push({ label, ...JSON.parse(JSON.stringify(seen)), cookies: browser.cookies() });
}

// ---------------------------------------------------------------- mails

const mails = () => {
  let text = "";
  try {
    text = readFileSync(process.env.MAILS, "utf8");
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
  }
  // Notices are what a server sends beyond Better Auth.
  return text.split("\n").filter(Boolean).map((line) => JSON.parse(line)).filter((mail) => mail.type !== "notice");
};
let seenMails = mails().length; // of flows that ran before on the same server
const withoutToken = (url) => url.replaceAll(base, "<BASE>").replace(/(token=|reset-password\/|#)[^&?]+/, "$1<token>");

// The next mail. Its url is noted, without the token.
async function mail(label, browser) {
  const ends = Date.now() + LIMIT;
  while (mails().length <= seenMails && Date.now() < ends) await pause(20);
  const next = mails()[seenMails];
  seenMails += 1;
  note(label, { to: next?.to, url: next && withoutToken(next.url) }, browser);
  if (!next) throw new Error(`no mail: ${label}`);
  return next;
}

// That none came on top of those that were read.
function noMore(label, browser) {
  note(label, { mails: mails().slice(seenMails).map(({ to, url }) => ({ to, url: withoutToken(url) })) }, browser);
  seenMails = mails().length;
}

// ---------------------------------------------------------------- what is done

const email = "alice@example.com";
const signUp = (more = {}) => (client) => client.signUp.email({ name: "Alice", email, password: PASSWORD, ...more });
const signIn = (more = {}) => (client) => client.signIn.email({ email, password: PASSWORD, ...more });
const session = (client) => client.getSession();
const signedIn = (state) => state.data !== null;
const signedOut = (state) => state.data === null;

async function everything() {
  const laptop = new Browser();
  const phone = new Browser();
  laptop.watching = laptop.client.useSession.subscribe(() => {});
  await laptop.store("store: nobody", signedOut);

  await laptop.call("signUp: invalid e-mail", signUp({ email: "bad" }));
  await laptop.call("signUp: short password", signUp({ password: "short" }));
  await laptop.call("signUp: long password", signUp({ password: "p".repeat(129) }));
  await laptop.call("signUp: foreign callbackURL", signUp({ callbackURL: `${EVIL}/` }));
  await laptop.call("signUp", signUp({ callbackURL: "/welcome" }));
  const first = await mail("signUp: mail", laptop);
  await laptop.store("store: follows the sign-up", signedIn);
  await phone.call("signUp: duplicate", signUp());
  await phone.call("signUp: another user", signUp({ name: "Bob", email: "bob@example.com", image: "http://app.example/b.png" }));
  await mail("signUp: another user, mail", phone);
  await phone.call("signOut: another user", (client) => client.signOut());
  await laptop.call("getSession", session);
  await phone.call("getSession: signed out", session);
  await phone.call("getSession: throw", (client) => client.getSession({ fetchOptions: { throw: true } }).then((data) => ({ data })));

  await phone.call("signIn: wrong password", signIn({ password: "wrong-password" }));
  await phone.call("signIn: unknown user", signIn({ email: "nobody@example.com" }));
  await phone.call("signIn: invalid e-mail", signIn({ email: "bad" }));
  await phone.call("signIn: throw", signIn({ password: "wrong-password", fetchOptions: { throw: true } }));
  await phone.call("signIn: not to be remembered", signIn({ rememberMe: false }));
  await phone.call("getSession: not to be remembered", session);
  await phone.call("updateUser: not to be remembered", (client) => client.updateUser({ name: "Alice" }));

  const listed = await laptop.call("listSessions", (client) => client.listSessions());
  await phone.call("listSessions: not to be remembered", (client) => client.listSessions());
  const own = await laptop.call("getSession: own token", session);
  const other = listed.find((each) => each.token !== own.session.token);
  await laptop.call("revokeSession: unknown", (client) => client.revokeSession({ token: "no-such-token" }));
  await laptop.call("revokeSession: token missing", (client) => client.revokeSession({ x: 1 }));
  await laptop.call("revokeSession", (client) => client.revokeSession({ token: other.token }));
  await phone.call("getSession: revoked", session);
  await phone.call("updateUser: revoked", (client) => client.updateUser({ name: "X" }));
  await phone.call("signIn: remembered", signIn({ rememberMe: true }));
  await laptop.call("revokeOtherSessions", (client) => client.revokeOtherSessions());
  await phone.call("getSession: revoked with the others", session);
  await phone.call("listSessions: signed out", (client) => client.listSessions());

  await laptop.call("sendVerificationEmail: somebody else's", (client) => client.sendVerificationEmail({ email: "bob@example.com" }));
  await laptop.call("sendVerificationEmail", (client) => client.sendVerificationEmail({ email, callbackURL: "/verified" }));
  const verify = await mail("sendVerificationEmail: mail", laptop);
  await phone.call("sendVerificationEmail: unknown, signed out", (client) => client.sendVerificationEmail({ email: "nobody@example.com" }));
  await phone.call("verifyEmail: bad token", (client) => client.verifyEmail({ query: { token: "garbage" } }));
  await phone.open("verify link: bad token", `${base}/api/auth/verify-email?token=garbage&callbackURL=%2Fverified`);
  await phone.open("verify link: foreign callbackURL", `${base}/api/auth/verify-email?token=garbage&callbackURL=${encodeURIComponent(EVIL)}`);
  await laptop.open("verify link", verify.url);
  await laptop.call("verifyEmail: again", (client) => client.verifyEmail({ query: { token: verify.token } }));
  await laptop.call("verifyEmail: the first mail's", (client) => client.verifyEmail({ query: { token: first.token } }));
  await laptop.call("getSession: verified", session);
  await laptop.call("sendVerificationEmail: verified", (client) => client.sendVerificationEmail({ email }));

  await laptop.call("updateUser", (client) => client.updateUser({ name: "Alice B", image: "http://app.example/a.png" }));
  await laptop.store("store: follows the update", (state) => state.data?.user.name === "Alice B");
  await laptop.call("updateUser: no image", (client) => client.updateUser({ image: null }));
  await laptop.call("updateUser: e-mail", (client) => client.updateUser({ email: "new@example.com" }));
  await laptop.call("updateUser: nothing", (client) => client.updateUser({}));
  await laptop.call("updateUser: unknown field", (client) => client.updateUser({ role: "admin" }));

  await phone.call("signIn: for changePassword", signIn());
  const change = (more) => (client) => client.changePassword({ currentPassword: PASSWORD, newPassword: SECOND, ...more });
  await laptop.call("changePassword: wrong", change({ currentPassword: "wrong-password" }));
  await laptop.call("changePassword: short", change({ newPassword: "short" }));
  await laptop.call("changePassword", change({ revokeOtherSessions: true }));
  await laptop.call("getSession: after changePassword", session);
  await phone.call("getSession: revoked by changePassword", session);
  await laptop.call("verifyPassword", (client) => client.verifyPassword({ password: SECOND }));
  await laptop.call("verifyPassword: wrong", (client) => client.verifyPassword({ password: PASSWORD }));

  const reset = (more) => (client) => client.requestPasswordReset({ email, redirectTo: "/reset", ...more });
  await phone.call("requestPasswordReset: unknown", reset({ email: "nobody@example.com" }));
  await phone.call("requestPasswordReset: foreign redirectTo", reset({ redirectTo: `${EVIL}/` }));
  await phone.call("requestPasswordReset", reset());
  const link = await mail("requestPasswordReset: mail", phone);
  await phone.open("reset link: bad token", `${base}/api/auth/reset-password/bad-token?callbackURL=%2Freset`);
  await phone.open("reset link", link.url);
  const renew = (more) => (client) => client.resetPassword({ newPassword: THIRD, token: link.token, ...more });
  await phone.call("resetPassword: short", renew({ newPassword: "short" }));
  await phone.call("resetPassword: bad token", renew({ token: "bad-token" }));
  await phone.call("resetPassword", renew());
  await phone.call("resetPassword: again", renew());
  await laptop.call("getSession: revoked by resetPassword", session);
  await phone.call("signIn: old password", signIn({ password: SECOND }));

  await laptop.call("signIn: with callbackURL", signIn({ password: THIRD, callbackURL: "/dashboard" }));
  note("signIn: the browser goes to callbackURL", { href: window.location.href }, laptop);
  await laptop.store("store: follows the sign-in", signedIn);
  await laptop.call("revokeSessions", (client) => client.revokeSessions());
  await laptop.store("store: follows revokeSessions", signedOut);
  await laptop.call("getSession: after revokeSessions", session);
  await laptop.call("signIn: once more", signIn({ password: THIRD }));
  await laptop.store("store: signed in once more", signedIn);
  await laptop.call("signOut", (client) => client.signOut());
  await laptop.store("store: follows signOut", signedOut);
  await laptop.call("signOut: signed out", (client) => client.signOut());
  await laptop.call("getSession: after signOut", session);

  await laptop.call("signIn: to delete", signIn({ password: THIRD }));
  await laptop.call("deleteUser: wrong password", (client) => client.deleteUser({ password: "wrong-password" }));
  await laptop.call("deleteUser", (client) => client.deleteUser({ password: THIRD }));
  await laptop.store("store: follows deleteUser", signedOut);
  await laptop.call("getSession: deleted", session);
  await laptop.call("signIn: deleted", signIn({ password: THIRD }));
  await phone.call("signIn: the other user", signIn({ email: "bob@example.com" }));
  await phone.call("deleteUser: fresh session, no password", (client) => client.deleteUser());
  await phone.call("deleteUser: signed out", (client) => client.deleteUser());

  await laptop.call("ok", (client) => client.ok());
  await laptop.call("an unknown path", (client) => client.noSuchEndpoint());
  // What a Node script meets that has no Origin, and a page of another site.
  const script = new Browser({ origin: null });
  await script.call("no Origin: signIn", signIn());
  await script.call("no Origin: requestPasswordReset", reset({ email: "nobody@example.com" }));
  await script.call("no Origin: getSession", session);
  const foreign = new Browser({ origin: EVIL });
  await foreign.call("foreign Origin: signIn", signIn());
  await foreign.call("foreign Origin: signUp", signUp());
  noMore("no other mails", laptop);
  laptop.watching();
}

async function verificationRequired() {
  const laptop = new Browser();
  await laptop.call("signUp", signUp());
  await mail("signUp: mail", laptop);
  await laptop.call("getSession: not signed in", session);
  await laptop.call("signUp: duplicate looks the same", signUp({ name: "Mallory" }));
  await laptop.call("signIn: wrong password", signIn({ password: "wrong-password" }));
  await laptop.call("signIn: not verified", signIn({ callbackURL: "/dashboard" }));
  const verify = await mail("signIn: mail", laptop);
  await laptop.call("verifyEmail", (client) => client.verifyEmail({ query: { token: verify.token } }));
  await laptop.call("getSession: verified, not signed in", session);
  await laptop.call("signIn", signIn());
  await laptop.call("getSession", session);
  noMore("no other mails", laptop);
}

async function signedInByVerification() {
  const laptop = new Browser();
  await laptop.call("signUp", signUp({ callbackURL: "/welcome" }));
  const verify = await mail("signUp: mail", laptop);
  await laptop.open("verify link", verify.url);
  await laptop.call("getSession", session);
  await new Browser().open("verify link again", verify.url);
}

async function rateLimited() {
  const laptop = new Browser();
  for (const number of [1, 2, 3]) await laptop.call(`signIn ${number}`, signIn({ email: "nobody@example.com" }));
  let wait;
  const onError = ({ response }) => (wait = response.headers.get("x-retry-after"));
  await laptop.call("signIn 4", signIn({ email: "nobody@example.com", fetchOptions: { onError } }));
  note("signIn 4: seconds to wait", { between_9_and_10: ["9", "10"].includes(wait) }, laptop);
  await laptop.call("getSession", session);
}

async function verified(laptop) {
  await laptop.call("signUp", signUp());
  const verify = await mail("signUp: mail", laptop);
  await laptop.call("verifyEmail", (client) => client.verifyEmail({ query: { token: verify.token } }));
  await laptop.call("changeEmail: the same", (client) => client.changeEmail({ newEmail: email }));
  await laptop.call("changeEmail: no address", (client) => client.changeEmail({ newEmail: "bad" }));
  await new Browser().call("changeEmail: signed out", (client) => client.changeEmail({ newEmail: "new@example.com" }));
}

const changeTo = (newEmail, more = {}) => (client) => client.changeEmail({ newEmail, callbackURL: "/changed", ...more });

async function changedByNewAddress() {
  const laptop = new Browser();
  await verified(laptop);
  await laptop.call("changeEmail", changeTo("new@example.com"));
  const link = await mail("changeEmail: mail", laptop);
  await laptop.open("change link", link.url);
  await laptop.call("getSession: changed", session);
  await laptop.open("change link again", link.url);
  noMore("no other mails", laptop);
}

async function changedByBothAddresses() {
  const laptop = new Browser();
  await verified(laptop);
  await laptop.call("changeEmail", changeTo("new@example.com"));
  const confirmation = await mail("changeEmail: mail to the old address", laptop);
  await laptop.open("confirmation link", confirmation.url);
  const link = await mail("changeEmail: mail to the new address", laptop);
  await laptop.call("getSession: not changed yet", session);
  const moved = await laptop.call("verifyEmail: new address", (client) => client.verifyEmail({ query: { token: link.token } }));
  note("verifyEmail: answers with the user", { email: moved?.user?.email }, laptop);
  await laptop.call("getSession: changed", session);
  await laptop.call("verifyEmail: again", (client) => client.verifyEmail({ query: { token: link.token } }));
  noMore("no other mails", laptop);
}

async function deletedByMail() {
  const laptop = new Browser();
  await laptop.call("signUp", signUp());
  await mail("signUp: mail", laptop);
  await laptop.call("deleteUser", (client) => client.deleteUser({ callbackURL: "/goodbye" }));
  const link = await mail("deleteUser: mail", laptop);
  await laptop.call("getSession: not deleted yet", session);
  await laptop.open("delete link: bad token", `${base}/api/auth/delete-user/callback?token=bad-token`);
  await laptop.open("delete link", link.url);
  await laptop.call("getSession: deleted", session);
}

// ---------------------------------------------------------------- organizations

async function joined(name) {
  const browser = new Browser();
  await browser.call(`${name}: signUp`, signUp({ name, email: `${name.toLowerCase()}@example.com` }));
  const verify = await mail(`${name}: mail`, browser);
  await browser.call(`${name}: verifyEmail`, (client) => client.verifyEmail({ query: { token: verify.token } }));
  return browser;
}

// The store of the active organization, when it is as `wanted` or when the time is over.
async function active(label, browser, wanted) {
  const ends = Date.now() + LIMIT;
  let state;
  do {
    await pause(25);
    state = browser.client.useActiveOrganization.get();
  } while (Date.now() < ends && (state.isPending || state.isRefetching || state.data?.slug !== wanted));
  note(label, { slug: state.data?.slug ?? null, members: state.data?.members.length ?? null }, browser);
}

async function organizations() {
  const alice = await joined("Ann"); // on the server of another flow, whose Alice is gone
  const bob = await joined("Bob");
  const carol = await joined("Carol");
  alice.client.useActiveOrganization.subscribe(() => {});
  alice.client.useListOrganizations.subscribe(() => {});
  const org = (work) => (client) => work(client.organization);

  await alice.call("checkSlug", org((o) => o.checkSlug({ slug: "acme" })));
  const acme = await alice.call("create", org((o) => o.create({ name: "Acme", slug: "acme", metadata: { plan: "x" } })));
  await active("store: acme", alice, "acme");
  await alice.call("checkSlug: taken", org((o) => o.checkSlug({ slug: "acme" })));
  await alice.call("update", org((o) => o.update({ data: { name: "Acme Corp", logo: "https://acme.example/l.png" } })));
  await alice.call("list", org((o) => o.list()));
  await alice.call("getSession: active", session);

  const invite = (email, role) => org((o) => o.inviteMember({ email, role }));
  await alice.call("inviteMember: Bob", invite("bob@example.com", "admin"));
  const forBob = await mail("inviteMember: Bob's mail", alice);
  const forDave = await alice.call("inviteMember: Dave", invite("dave@example.com", "member"));
  await mail("inviteMember: Dave's mail", alice);
  await alice.call("listInvitations", org((o) => o.listInvitations()));
  await alice.call("cancelInvitation", org((o) => o.cancelInvitation({ invitationId: forDave.id })));

  await bob.call("listUserInvitations", org((o) => o.listUserInvitations()));
  await bob.call("getInvitation", org((o) => o.getInvitation({ query: { id: forBob.token } })));
  await carol.call("acceptInvitation: Bob's", org((o) => o.acceptInvitation({ invitationId: forBob.token })));
  await bob.call("acceptInvitation", org((o) => o.acceptInvitation({ invitationId: forBob.token })));
  await alice.call("getFullOrganization", org((o) => o.getFullOrganization({ query: { membersLimit: 50 } })));
  await bob.call("getActiveMember", org((o) => o.getActiveMember()));
  await bob.call("getActiveMemberRole", org((o) => o.getActiveMemberRole()));
  await bob.call("hasPermission", org((o) => o.hasPermission({ permissions: { member: ["create"] } })));
  await bob.call("hasPermission: no", org((o) => o.hasPermission({ permissions: { organization: ["delete"] } })));
  const known = { owner: { organization: ["delete"] }, admin: { member: ["delete"] }, member: { member: ["delete"] } };
  for (const [role, permissions] of Object.entries(known))
    note(`checkRolePermission: ${role}`, { may: bob.client.organization.checkRolePermission({ role, permissions }) }, bob);

  await bob.call("inviteMember: by Bob", invite("carol@example.com", "member"));
  const again = await mail("inviteMember: by Bob, mail", bob);
  await bob.call("inviteMember: an owner, by Bob", invite("dave@example.com", "owner"));
  await carol.call("rejectInvitation", org((o) => o.rejectInvitation({ invitationId: again.token })));
  await bob.call("inviteMember: once more", invite("carol@example.com", "member"));
  const last = await mail("inviteMember: once more, mail", bob);
  await carol.call("acceptInvitation: Carol", org((o) => o.acceptInvitation({ invitationId: last.token })));

  const { members } = await alice.call("listMembers", org((o) => o.listMembers()));
  const [bobs, carols] = ["bob", "carol"].map((name) => members.find((m) => m.user.email === `${name}@example.com`));
  await alice.call("leave: the only owner", org((o) => o.leave({ organizationId: acme.id })));
  const role = (memberId, role) => org((o) => o.updateMemberRole({ memberId, role }));
  await bob.call("updateMemberRole: by Bob", role(bobs.id, "owner"));
  await alice.call("updateMemberRole", role(bobs.id, "owner"));
  await bob.call("removeMember", org((o) => o.removeMember({ memberIdOrEmail: carols.id })));
  await carol.call("listMembers: removed", org((o) => o.listMembers({ query: { organizationId: acme.id } })));
  await alice.call("leave", org((o) => o.leave({ organizationId: acme.id })));
  await active("store: none", alice, undefined);
  await alice.call("list: none", org((o) => o.list()));
  await bob.call("setActive: null", org((o) => o.setActive({ organizationId: null })));
  await bob.call("setActive", org((o) => o.setActive({ organizationSlug: "acme" })));
  await bob.call("delete", org((o) => o.delete({ organizationId: acme.id })));
  await bob.call("getSession: none is active", session);
  noMore("no other mails", bob);
}

const flows = {
  A: everything,
  B: verificationRequired,
  C: rateLimited,
  D: signedInByVerification,
  F: changedByNewAddress,
  G: changedByBothAddresses,
  I: deletedByMail,
  K: organizations,
};
if (!(configuration in flows) || !base || !process.env.MAILS) {
  console.error(`usage: MAILS=FILE node client.mjs ${Object.keys(flows).join("|")} BASE`);
  process.exit(2);
}
await flows[configuration]();
console.log(JSON.stringify(transcript, null, 1));
process.exit(0); // the session store would keep the process alive
