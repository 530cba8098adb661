// What AsyncAPI's own parser finds wrong with a document and the Avro schemas in it.
//
// usage: parse_asyncapi.js FILE   prints {"messages": [those it read], "found": [what is wrong]}
const fs = require("node:fs");
const { Parser } = require("@asyncapi/parser");
const { AvroSchemaParser } = require("@asyncapi/avro-schema-parser");

const parser = new Parser({ schemaParsers: [AvroSchemaParser()] });
parser.parse(fs.readFileSync(process.argv[2], "utf8")).then(({ document, diagnostics }) => {
  const ERROR_OR_WARNING = 1; // less is advice, such as to name a licence
  const found = diagnostics.filter(({ severity }) => severity <= ERROR_OR_WARNING);
  const messages = document ? document.messages().all().map((message) => message.name()) : [];
  console.log(JSON.stringify({ messages, found: found.map(({ path, message }) => `${path.join("/")}: ${message}`) }));
});
