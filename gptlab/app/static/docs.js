// The API as FastAPI describes it, without a script from elsewhere.
import { get } from "./api.js";
import { $, make } from "./dom.js";

const described = await get("/openapi.json");

function fields(schema) {
  const found = described.components.schemas[schema.$ref?.split("/").at(-1)];
  return Object.entries(found?.properties ?? {}).flatMap(([name, field]) => [
    make("dt", {}, make("code", {}, name)), make("dd", {}, limits(field))]);
}

function limits(field) {
  const parts = (field.anyOf ?? [field]).filter((part) => part.type !== "null");
  const { minimum, maximum, exclusiveMinimum } = parts[0] ?? {};
  const low = minimum ?? exclusiveMinimum;
  const range = low === undefined ? "" : maximum === undefined ? `from ${low}` : `${low} to ${maximum}`;
  const begins = field.default === undefined || field.default === null ? "" : `otherwise ${JSON.stringify(field.default)}`;
  return [field.description, range, begins].filter(Boolean).join(" · ");
}

for (const [path, methods] of Object.entries(described.paths)) {
  for (const [method, { description, parameters, requestBody }] of Object.entries(methods)) {
    const schema = requestBody?.content["application/json"].schema;
    const asked = (parameters ?? []).map((each) => `?${each.name}=`).join("");
    $("all").append(make("h3", {}, `${method.toUpperCase()} ${path}${asked}`), make("p", {}, description ?? ""));
    if (schema) $("all").append(make("dl", {}, ...fields(schema)));
  }
}
