// A front end written against the generated types. It must compile with `tsc --strict`, and do what it says.
// node client.js BASE: prints one JSON object for each call.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

const base: string = process.argv[2]!;

async function signUp(): Promise<string> {
  const body = JSON.stringify({ name: "Ada", email: "ada@example.com", password: "four quiet rivers and a spoon" });
  const headers = { "content-type": "application/json", origin: base };
  const answer = await fetch(`${base}/api/auth/sign-up/email`, { method: "POST", headers, body });
  return answer.headers.getSetCookie().map((cookie) => cookie.split(";")[0]).join("; ");
}

const cookie = await signUp();
const client = createClient<paths>({ baseUrl: base, headers: { cookie, origin: base } });

function say(what: string, answer: { response: Response; data?: unknown; error?: unknown }): void {
  const { response, data, error } = answer;
  const sent = response.headers.get("content-type");
  console.log(JSON.stringify({ what, status: response.status, sent, data: data ?? null, error: error ?? null }));
}

// creating: what may be left out is left out
const created = await client.POST("/organizations", { body: { slug: "acme", name: "Acme" } });
say("create", created);
const full: components["schemas"]["NewOrganization"] = { slug: "acme-labs", name: "Labs", description: null };
const key = { "Idempotency-Key": '"the-only-key-of-this-test"' };
say("create with a key", await client.POST("/organizations", { params: { header: key }, body: full }));
say("create again with the key", await client.POST("/organizations", { params: { header: key }, body: full }));
say("create twice", await client.POST("/organizations", { body: full }));

// patching: one member, or the other
const path = { slug: "acme" };
const read = await client.GET("/organizations/{slug}", { params: { path } });
let tag: string = read.response.headers.get("etag")!;
const one = await client.PATCH("/organizations/{slug}", {
  params: { path, header: { "If-Match": tag } },
  body: { description: "Anvils" },
});
say("patch the description", one);
tag = one.response.headers.get("etag")!;
const other = await client.PATCH("/organizations/{slug}", {
  params: { path, header: { "If-Match": tag } },
  body: { name: "Acme Ltd" },
});
say("patch the name", other);
const typed = await client.PATCH("/organizations/{slug}", {
  params: { path, header: { "If-Match": other.response.headers.get("etag")! } },
  headers: { "content-type": "application/merge-patch+json" },
  body: { description: null },
});
say("remove the description", typed);
say("patch with an old tag", await client.PATCH("/organizations/{slug}", {
  params: { path, header: { "If-Match": tag } },
  body: { name: "Lost" },
}));

// a list, page by page, with nothing but what the types say
const seen: string[] = [];
let cursor: string | undefined;
do {
  const page = await client.GET("/organizations", { params: { query: { limit: 1, cursor, sort: "slug" } } });
  if (page.data === undefined) throw new Error(`${page.error.status} ${page.error.title}`);
  seen.push(...page.data.items.map((item) => item.slug));
  const next: string | null = page.data.next;
  cursor = next === null ? undefined : new URL(next, base).searchParams.get("cursor")!;
} while (cursor !== undefined);
console.log(JSON.stringify({ what: "list", status: 200, data: seen }));
say("list without anything", await client.GET("/packages"));

// packages
const published = await client.POST("/packages", { body: { name: "Anvil.Tools", organization: "acme" } });
say("publish", published);
const rank: number | null | undefined = published.data?.popularity_rank;
const summary: string | null | undefined = published.data?.summary;
console.log(JSON.stringify({ what: "members that are always there", status: 200, data: [rank, summary] }));
const named = { name: "anvil-tools" };
say("patch nothing", await client.PATCH("/packages/{name}", {
  params: { path: named, header: { "If-Match": "*" } },
  body: {},
}));

// refusals are problems, and typed
const missing = await client.GET("/packages/{name}", { params: { path: { name: "no-such-package-of-a-test" } } });
say("not there", missing);
const problem: components["schemas"]["Problem"] | undefined = missing.error;
const id: string | undefined = problem?.request_id;
console.log(JSON.stringify({ what: "request id", status: 200, data: typeof id }));
const blank = await client.POST("/organizations", { body: { slug: "blank", name: " " } });
say("a blank name", blank);
const pointers: (string | undefined)[] | undefined = blank.error?.errors?.map((fault) => fault.pointer);
console.log(JSON.stringify({ what: "pointers", status: 200, data: pointers }));

// deleting
say("delete what owns packages", await client.DELETE("/organizations/{slug}", {
  params: { path, header: { "If-Match": "*" } },
}));
say("delete the package", await client.DELETE("/packages/{name}", {
  params: { path: named, header: { "If-Match": "*" } },
}));
say("delete", await client.DELETE("/organizations/{slug}", { params: { path, header: { "If-Match": "*" } } }));
