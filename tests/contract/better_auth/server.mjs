// The real better-auth, as the recorded contract ran it: `node server.mjs CONFIGURATION PORT`.
//
// Environment: SECRET (at least 32 characters), MAILS (a file; one JSON object a line: type, to, url, token, new_email),
// and DATABASE_URL for PostgreSQL in place of the memory adapter. Prints "listening on PORT" when it is ready.
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { organization, twoFactor } from "better-auth/plugins";

const [configuration, port] = process.argv.slice(2);
const { SECRET: secret, MAILS: mailFile, DATABASE_URL: databaseUrl } = process.env;
const base = `http://127.0.0.1:${port}`;

const mail = (type) => async ({ user, url, token, newEmail }) => {
  const line = { type, to: user.email, url, token };
  if (newEmail !== undefined) line.new_email = newEmail;
  if (mailFile) appendFileSync(mailFile, `${JSON.stringify(line)}\n`);
};

// What all configurations share; the letters change only what they are about. The rate limit is off but in C,
// and no session is kept in a cookie, so that each answer comes from the database.
const common = () => ({
  baseURL: base,
  secret,
  trustedOrigins: [base, "http://app.example"],
  emailAndPassword: {
    enabled: true,
    minPasswordLength: 8,
    maxPasswordLength: 128,
    revokeSessionsOnPasswordReset: true,
    requireEmailVerification: false,
    sendResetPassword: mail("reset-password"),
  },
  emailVerification: { sendOnSignUp: true, sendVerificationEmail: mail("verify-email") },
  user: { deleteUser: { enabled: true } },
  session: { expiresIn: 7 * 86400, updateAge: 86400, freshAge: 86400 },
  rateLimit: { enabled: false },
  telemetry: { enabled: false },
  logger: { disabled: true },
});

const required = (options) => {
  options.emailAndPassword.requireEmailVerification = true;
  options.emailVerification.sendOnSignIn = true;
};
const changeEmail = (options, more = {}) => {
  options.user.changeEmail = { enabled: true, ...more };
};

const organizations = (options, more = {}) => {
  const sendInvitationEmail = async ({ id, email }) => {
    const line = { type: "invitation", to: email, url: `${base}/accept-invitation#${id}`, token: id };
    if (mailFile) appendFileSync(mailFile, `${JSON.stringify(line)}\n`);
  };
  options.plugins = [organization({ sendInvitationEmail, ...more })];
};

const secondFactor = (options) => {
  options.appName = "Pantry";
  options.plugins = [twoFactor()];
};

const configurations = {
  A: () => {},
  B: required,
  C: (options) => {
    options.rateLimit = { enabled: true };
  },
  D: (options) => {
    required(options);
    options.emailVerification.autoSignInAfterVerification = true;
  },
  E: (options) => {
    options.session = { expiresIn: 4, updateAge: 1, freshAge: 2 };
    options.emailAndPassword.resetPasswordTokenExpiresIn = 1;
  },
  // Beyond the recorded page: changing the address, and deleting by mail.
  F: (options) => changeEmail(options),
  G: (options) => changeEmail(options, { sendChangeEmailConfirmation: mail("change-email-confirmation") }),
  H: (options) => changeEmail(options, { updateEmailWithoutVerification: true }),
  I: (options) => {
    options.user.deleteUser.sendDeleteAccountVerification = mail("delete-account");
  },
  // The plugin of organizations: once as it comes, and once where only a verified address may answer an invitation.
  J: (options) => organizations(options),
  K: (options) => organizations(options, { requireEmailVerificationOnInvitation: true }),
  T: secondFactor,
  U: (options) => {
    secondFactor(options);
    options.emailVerification.autoSignInAfterVerification = true;
  },
};

if (!(configuration in configurations) || !(Number(port) > 0) || !secret) {
  console.error(`usage: SECRET=... node server.mjs ${Object.keys(configurations).join("|")} PORT`);
  process.exit(2);
}

const options = common();
configurations[configuration](options);
if (databaseUrl) {
  const { default: pg } = await import("pg");
  options.database = new pg.Pool({ connectionString: databaseUrl });
} else {
  const tables = ["user", "session", "account", "verification", "rateLimit", "organization", "member", "invitation"];
  tables.push("twoFactor");
  options.database = memoryAdapter(Object.fromEntries(tables.map((name) => [name, []])));
}
const auth = betterAuth(options);
if (databaseUrl) await (await auth.$context).runMigrations();

createServer(toNodeHandler(auth)).listen(Number(port), "127.0.0.1", () => console.log(`listening on ${port}`));
process.on("SIGTERM", () => process.exit(0));
