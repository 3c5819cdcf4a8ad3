// Checks a dashboard's JSON against types.ts: every property is known and of its type, none that has to be
// there is missing, and every string that stands for an enumeration is one of its values.
//
//   npm ci && npm run check -- dashboard.json
import { readFileSync } from 'node:fs';
import ts from 'typescript';

const program = ts.createProgram([new URL('types.ts', import.meta.url).pathname], {
  strict: true, noEmit: true, skipLibCheck: true, types: [],
  target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext,
});
const checker = program.getTypeChecker();
const broken = ts.getPreEmitDiagnostics(program);
if (broken.length > 0) {
  console.error(ts.formatDiagnostics(broken, { getCanonicalFileName: (f) => f, getCurrentDirectory: () => '.', getNewLine: () => '\n' }));
  process.exit(2);
}

const source = program.getSourceFiles().find((f) => f.fileName.endsWith('/types.ts'));
const exported = Object.fromEntries(
  checker.getExportsOfModule(checker.getSymbolAtLocation(source)).map((s) => [s.name, checker.getDeclaredTypeOfSymbol(s)]),
);
let looked = 0;

// faults returns what is wrong with a value, as one line each.
function faults(value, type, path) {
  looked++;
  const f = type.flags;
  if (f & (ts.TypeFlags.Any | ts.TypeFlags.Unknown)) return [];
  if (type.isUnion()) return best(alike(value, type.types).map((t) => faults(value, t, path)));
  const wrong = [`${path}: ${JSON.stringify(value)?.slice(0, 60)} is no ${checker.typeToString(type)}`];
  if (f & ts.TypeFlags.Null) return value === null ? [] : wrong;
  if (f & (ts.TypeFlags.StringLiteral | ts.TypeFlags.NumberLiteral)) return value === type.value ? [] : wrong;
  if (f & ts.TypeFlags.BooleanLiteral) return checker.typeToString(type) === String(value) && typeof value === 'boolean' ? [] : wrong;
  for (const [flag, name] of [[ts.TypeFlags.String, 'string'], [ts.TypeFlags.Number, 'number'], [ts.TypeFlags.Boolean, 'boolean']]) {
    if (f & flag) return typeof value === name ? [] : wrong;
  }
  if (f & (ts.TypeFlags.Undefined | ts.TypeFlags.Never | ts.TypeFlags.Void)) return wrong;
  if (typeof value !== 'object' || value === null) return wrong;
  if (checker.isArrayType(type)) {
    if (!Array.isArray(value)) return wrong;
    const item = checker.getTypeArguments(type)[0];
    return value.flatMap((v, i) => faults(v, item, `${path}[${i}]`));
  }
  return Array.isArray(value) ? wrong : members(value, type, path);
}

// members checks an object's properties.
function members(value, type, path) {
  const index = checker.getIndexInfoOfType(type, ts.IndexKind.String);
  const found = Object.entries(value).flatMap(([name, v]) => {
    const property = checker.getPropertyOfType(type, name);
    if (property) return faults(v, checker.getTypeOfSymbol(property), `${path}.${name}`);
    return index ? faults(v, index.type, `${path}.${name}`) : [`${path}.${name}: there is no such property`];
  });
  const missing = checker.getPropertiesOfType(type)
    .filter((p) => !(p.flags & ts.SymbolFlags.Optional) && !(p.name in value))
    .map((p) => `${path}.${p.name}: is missing`);
  return [...found, ...missing];
}

// alike returns those members of a union that a value may be meant for, so that an object's faults are told
// rather than that it is no number.
function alike(value, types) {
  const like = types.filter((t) => (typeof value === 'object' && value !== null) === Boolean(t.flags & ts.TypeFlags.Object));
  return like.length > 0 ? like : types;
}

const best = (tries) => tries.reduce((a, b) => (b.length < a.length ? b : a));

const { panels, ...whole } = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const problems = faults(whole, exported.Whole, 'dashboard');
for (const panel of panels) {
  const kind = checker.getPropertyOfType(exported.Kinds, panel.type);
  const path = `panel ${panel.id} (${panel.title})`;
  problems.push(...(kind ? faults(panel, checker.getTypeOfSymbol(kind), path) : [`${path}: ${panel.type} is no kind of panel in types.ts`]));
}
console.log(problems.join('\n') || `${panels.length} panels, ${looked} comparisons: all is as @grafana/schema has it`);
process.exit(problems.length > 0 ? 1 : 0);
