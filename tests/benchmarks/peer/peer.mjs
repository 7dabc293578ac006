// The source's own stack doing Pantry's job: Hono, better-auth's session check, Drizzle's queries on Pantry's tables.
//
// Environment: DATABASE_URL of a database that Pantry has filled, and PORT. Prints "ready" when it is.
// It does the work of Pantry's routes and no more: no ETag of a list, no problem details, no strict JSON.
import { createHash, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { serve } from "@hono/node-server";
import { betterAuth } from "better-auth";
import { drizzleAdapter } from "better-auth/adapters/drizzle";
import { and, asc, desc, eq, isNull, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { boolean, integer, pgTable, text, timestamp, uuid } from "drizzle-orm/pg-core";
import { Hono } from "hono";
import pg from "pg";
import * as schema from "./schema.mjs";

const PORT = Number(process.env.PORT);
const BASE = `http://127.0.0.1:${PORT}`;
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 });
await pool.query(readFileSync(new URL("./tables.sql", import.meta.url), "utf8"));
const db = drizzle(pool, { schema });
const auth = betterAuth({
  baseURL: BASE,
  secret: "a-secret-of-the-benchmarks-0123456789-abcdef",
  database: drizzleAdapter(db, { provider: "pg", schema }),
  telemetry: { enabled: false },
  logger: { level: "error" },
  emailAndPassword: { enabled: true },
  rateLimit: { enabled: false },
});

// Pantry's tables, and the peer's own of who belongs where: its users have ids of their own.
const moment = (name) => timestamp(name, { withTimezone: true });
const organizations = pgTable("organizations", { id: uuid("id").primaryKey(), slug: text("slug").notNull() });
const packages = pgTable("packages", {
  id: uuid("id").primaryKey(),
  organizationId: uuid("organization_id").notNull(),
  spelled: text("name").notNull(),
  name: text("normalized_name").notNull(),
  summary: text("summary"),
  popularity_rank: integer("popularity_rank"),
  version: integer("version").notNull(),
  created_at: moment("created_at").notNull(),
  updated_at: moment("updated_at").notNull(),
});
const releases = pgTable("releases", {
  id: uuid("id").primaryKey(),
  packageId: uuid("package_id").notNull(),
  version: text("version").notNull(),
  key: text("version_key").notNull(),
  pre: boolean("is_prerelease").notNull(),
  yankedAt: moment("yanked_at"),
});
const members = pgTable("member", {
  organizationId: uuid("organization_id").notNull(),
  userId: text("user_id").notNull(),
  role: text("role").notNull(),
});

const newest = db
  .select({ version: releases.version })
  .from(releases)
  .where(and(eq(releases.packageId, packages.id), isNull(releases.yankedAt)))
  .orderBy(asc(releases.pre), desc(releases.key))
  .limit(1);
const shown = {
  name: packages.name,
  organization: organizations.slug,
  summary: packages.summary,
  popularity_rank: packages.popularity_rank,
  latest_version: sql`(${newest})`,
  created_at: packages.created_at,
  updated_at: packages.updated_at,
};
const found = (db) =>
  db.select(shown).from(packages).innerJoin(organizations, eq(organizations.id, packages.organizationId));
const normal = (name) => name.toLowerCase().replace(/[-_.]+/g, "-");
const tagOf = (row) => `"${createHash("sha256").update(JSON.stringify(row)).digest("hex").slice(0, 32)}"`;
const roleOf = () =>
  db
    .select({ role: members.role })
    .from(members)
    .innerJoin(organizations, eq(organizations.id, members.organizationId));

const app = new Hono();
app.on(["GET", "POST"], "/api/auth/*", (c) => auth.handler(c.req.raw));
const signedIn = async (c, next) => {
  const session = await auth.api.getSession({ headers: c.req.raw.headers });
  if (!session) return c.json({ title: "Unauthorized" }, 401);
  c.set("user", session.user);
  await next();
};
app.get("/packages", signedIn, async (c) => {
  const rows = await found(db).orderBy(asc(packages.name)).limit(21);
  return c.json({ items: rows.slice(0, 20), next: rows.length > 20 ? `/packages?after=${rows[19].name}` : null });
});
app.get("/packages/:name", signedIn, async (c) => {
  const [row] = await found(db).where(eq(packages.name, normal(c.req.param("name"))));
  if (!row) return c.json({ title: "Not found" }, 404);
  c.header("ETag", tagOf(row));
  return c.json(row);
});
app.post("/packages", signedIn, async (c) => {
  const sent = await c.req.json();
  if (typeof sent.name !== "string" || typeof sent.organization !== "string") return c.json({ title: "Invalid" }, 422);
  const mine = and(eq(members.userId, c.get("user").id), eq(organizations.slug, sent.organization));
  const [may] = await roleOf().where(mine);
  if (!may) return c.json({ title: "No" }, 403);
  const made = await db.transaction(async (db) => {
    const [owner] = await db.select().from(organizations).where(eq(organizations.slug, sent.organization)).for("key share");
    const now = new Date();
    const summary = sent.summary ?? null;
    const row = { id: randomUUID(), organizationId: owner.id, spelled: sent.name, name: normal(sent.name), summary };
    await db.insert(packages).values({ ...row, popularity_rank: null, version: 1, created_at: now, updated_at: now });
    const rest = { popularity_rank: null, latest_version: null, created_at: now, updated_at: now };
    return { name: row.name, organization: owner.slug, summary, ...rest };
  }, { isolationLevel: "repeatable read" });
  c.header("Location", `/packages/${made.name}`);
  return c.json(made, 201);
});
app.patch("/packages/:name", signedIn, async (c) => {
  const name = normal(c.req.param("name"));
  const sent = await c.req.json();
  const mine = and(eq(members.userId, c.get("user").id), eq(packages.name, name));
  const [may] = await roleOf().innerJoin(packages, eq(packages.organizationId, organizations.id)).where(mine);
  if (!may || may.role === "member") return c.json({ title: "No" }, 403);
  const answer = await db.transaction(async (db) => {
    const [row] = await found(db).where(eq(packages.name, name));
    if (!row) return [404, { title: "Not found" }];
    if (c.req.header("If-Match") !== tagOf(row)) return [412, { title: "Changed" }];
    const changes = { summary: sent.summary, updated_at: new Date(), version: sql`${packages.version} + 1` };
    await db.update(packages).set(changes).where(eq(packages.name, name));
    return [200, { ...row, summary: changes.summary, updated_at: changes.updated_at }];
  }, { isolationLevel: "repeatable read" });
  c.header("ETag", tagOf(answer[1]));
  return c.json(answer[1], answer[0]);
});
serve({ fetch: app.fetch, port: PORT, hostname: "127.0.0.1" }, () => console.log("ready"));
