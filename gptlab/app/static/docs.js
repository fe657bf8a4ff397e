// Show /openapi.json, without scripts from another site.
import { get } from "./api.js";
import { $, createElement } from "./dom.js";

const openapi = await get("/openapi.json");

function describeFields(schema) {
  const component = openapi.components.schemas[schema.$ref?.split("/").at(-1)];
  return Object.entries(component?.properties ?? {}).flatMap(([name, field]) => [
    createElement("dt", {}, createElement("code", {}, name)), createElement("dd", {}, describeField(field))]);
}

function describeField(field) {
  const [{ minimum, maximum } = {}] = (field.anyOf ?? [field]).filter((part) => part.type !== "null");
  const range = minimum === undefined ? "" : maximum === undefined ? `at least ${minimum}` : `${minimum} to ${maximum}`;
  const fallback = field.default === undefined || field.default === null ? "" : `default ${JSON.stringify(field.default)}`;
  return [field.description, range, fallback].filter(Boolean).join(" · ");
}

for (const [path, methods] of Object.entries(openapi.paths)) {
  for (const [method, { description, parameters = [], requestBody }] of Object.entries(methods)) {
    const schema = requestBody?.content["application/json"].schema;
    const query = parameters.map(({ name }) => `?${name}=`).join("");
    $("routes").append(createElement("h3", {}, `${method.toUpperCase()} ${path}${query}`),
      createElement("p", {}, description ?? ""));
    if (schema) $("routes").append(createElement("dl", {}, ...describeFields(schema)));
  }
}
