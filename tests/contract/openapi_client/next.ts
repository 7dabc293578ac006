// What a Next.js front end does with Pantry: its sign-in and its route handlers, which run on the server. They take and
// return the web's own Request and Response, so they run in Node without Next. In an app of Next this is three files:
// lib/pantry.ts (with `import "server-only"`), app/api/sign-in/route.ts and app/api/organizations/[slug]/route.ts.
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

// ------------------------------------------------------------------------------------------------------ lib/pantry.ts

// From the environment of the server only: never NEXT_PUBLIC_, never a part of a request.
const baseUrl: string = new URL(process.env["PANTRY_URL"] ?? "http://127.0.0.1:8000").origin;
const SLUG = /^[a-z0-9]+(-[a-z0-9]+)*$/; // the document has it; types know nothing of patterns
const SESSION = /^(__Secure-|__Host-)?better-auth\./;

// Pantry counts all visitors together, as this server, in its limits per network: hand X-Forwarded-For on, and name this
// server in FORWARDED_ALLOW_IPS.

/** The cookies of the session, and none of the front end's own. */
function sessionOf(request: Request): string {
  const cookies = (request.headers.get("cookie") ?? "").split(/; */);
  return cookies.filter((cookie) => SESSION.test(cookie)).join("; ");
}

export function pantry(request: Request) {
  const headers = new Headers({ cookie: sessionOf(request) });
  const origin = request.headers.get("origin"); // Pantry decides whether it is trusted
  if (origin !== null) headers.set("origin", origin);
  const never = { cache: "no-store", redirect: "manual" } as const;
  return createClient<paths>({ baseUrl, headers, ...never });
}

/** The answer for the browser: what Pantry said, its tag and its cookies; nothing that a cache may keep. */
function handedOn(body: unknown, response: Response): Response {
  const headers = new Headers({ "cache-control": "no-store" });
  for (const name of ["content-type", "etag", "retry-after", "x-request-id"]) {
    const value = response.headers.get(name);
    if (value !== null) headers.set(name, value);
  }
  for (const cookie of response.headers.getSetCookie()) headers.append("set-cookie", cookie);
  return new Response(body === undefined ? null : JSON.stringify(body), { status: response.status, headers });
}

function refused(status: number, title: string): Response {
  const headers = { "content-type": "application/problem+json", "cache-control": "no-store" };
  return new Response(JSON.stringify({ type: "about:blank", title, status }), { status, headers });
}

// ------------------------------------------------------------------------------------------ app/api/sign-in/route.ts

/** Better Auth's call; a browser reaches Pantry through this handler only. */
export async function POST(request: Request): Promise<Response> {
  const headers = new Headers({ "content-type": "application/json" });
  const origin = request.headers.get("origin");
  if (origin !== null) headers.set("origin", origin);
  const { email, password } = (await request.json().catch(() => null)) ?? {};
  const body = JSON.stringify({ email, password });
  const options = { method: "POST", headers, body, cache: "no-store", redirect: "manual" } as const;
  const response = await fetch(`${baseUrl}/api/auth/sign-in/email`, options);
  // The body has the session's token, which scripts in the browser must not get: only the cookie goes on.
  return handedOn(response.ok ? { signedIn: true } : { signedIn: false }, response);
}

// ------------------------------------------------------------------------------ app/api/organizations/[slug]/route.ts

type Context = { params: Promise<{ slug: string }> };
const notFound = () => refused(404, "There is no such page");

export async function GET(request: Request, { params }: Context): Promise<Response> {
  const { slug } = await params;
  if (!SLUG.test(slug)) return notFound(); // "..", too, would be another path
  const path = { slug };
  const { data, error, response } = await pantry(request).GET("/organizations/{slug}", {
    params: { path },
  });
  return handedOn(data ?? error, response);
}

export async function PATCH(request: Request, { params }: Context): Promise<Response> {
  const { slug } = await params;
  if (!SLUG.test(slug)) return notFound();
  const tag = request.headers.get("if-match");
  if (tag === null) return refused(428, "Send the ETag of what you read as If-Match");
  const { name, description } = (await request.json().catch(() => null)) ?? {}; // these two, whatever else was sent
  const { data, error, response } = await pantry(request).PATCH("/organizations/{slug}", {
    params: { path: { slug }, header: { "If-Match": tag } },
    body: { name, description },
  });
  return handedOn(data ?? error, response);
}

// --------------------------------------------------------------------------------------- app/organizations/page.tsx

/** What a server component awaits before it renders: `await titles((await headers()).get("cookie"))`. */
export async function titles(cookie: string | null): Promise<string[] | "sign in"> {
  const request = new Request("http://unused.invalid/", { headers: { cookie: cookie ?? "" } });
  const { data, response } = await pantry(request).GET("/organizations", { params: { query: { limit: 100 } } });
  if (response.status === 401) return "sign in";
  if (data === undefined) throw new Error(`Pantry answered ${response.status}`); // error.tsx renders it
  return data.items.map((organization) => organization.name);
}
