// What the programs here use of Node; in a project it comes from @types/node.
declare const process: { argv: string[]; env: Record<string, string | undefined> };
