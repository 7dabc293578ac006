// Calls that must not compile. Above each stands what is wrong, and a part of what the compiler says of the line below.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

const client = createClient<paths>({ baseUrl: "http://localhost:8000" });
const path = { slug: "acme" };
const header = { "If-Match": "*" };

// a path that is not there: Expected 2 arguments
await client.GET("/organisations");
// a method that it has not: parameter of type 'never'
await client.PUT("/organizations/{slug}", { params: { path } });
// a parameter of the path is missing: Expected 2 arguments
await client.GET("/organizations/{slug}");
// its name is wrong: 'name' does not exist in type '{ slug: string; }'
await client.GET("/organizations/{slug}", { params: { path: { name: "acme" } } });
// a field's name is wrong: 'nmae' does not exist
await client.POST("/organizations", { body: { slug: "acme", nmae: "Acme" } });
// a field is missing: Property 'name' is missing
await client.POST("/organizations", { body: { slug: "acme" } });
// a field's type is wrong: Type 'number' is not assignable to type 'string'
await client.POST("/packages", { body: { name: "anvil", organization: 7 } });
// the body is missing: Expected 2 arguments
await client.POST("/organizations");
// If-Match is missing: Property 'header' is missing
await client.PATCH("/organizations/{slug}", { params: { path }, body: { name: "Acme" } });
// If-Match is missing: Property 'header' is missing
await client.DELETE("/organizations/{slug}", { params: { path } });
// null where a text is needed: Type 'null' is not assignable
await client.PATCH("/organizations/{slug}", { params: { path, header }, body: { name: null } });
// a sort that does not exist: Type '"size"' is not assignable
await client.GET("/packages", { params: { query: { sort: "size" } } });
// a parameter of the query that does not exist: 'page' does not exist
await client.GET("/packages", { params: { query: { page: 2 } } });
// a type of problem that does not exist: Type '"gone"' is not assignable
await client.GET("/problems/{slug}", { params: { path: { slug: "gone" } } });

const found = await client.GET("/packages/{name}", { params: { path: { name: "anvil" } } });
// data is there on success only: 'found.data' is possibly 'undefined'
console.log(found.data.name);
// what may be null: possibly 'null'
console.log(found.data!.summary.length);
// a member that no answer has: Property 'version' does not exist
console.log(found.data!.version);
// an error is a problem: Property 'message' does not exist
console.log(found.error!.message);
const problem: components["schemas"]["Problem"] = found.error!;
// not every problem has a list of errors: 'problem.errors' is possibly 'undefined'
console.log(problem.errors.length);
