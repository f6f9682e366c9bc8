// A whole session by the DAP client that VS Code's own adapters are tested with. Each line it writes is one JSON value.
// node editor.cjs PORT PROCESSID SOURCE LINE [SAFEDLV-SETTINGS]
const { DebugClient } = require("@vscode/debugadapter-testsupport");

const [port, processId, source, line, settings] = process.argv.slice(2);
const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");

async function session() {
  const client = new DebugClient("", "", "go");
  client.defaultTimeout = 20000;
  await client.start(Number(port));
  await client.initializeRequest();
  await client.attachRequest({ mode: "local", processId: "no target" }).then(
    () => say("attached"),
    (error) => say({ refused: error.message }),
  );
  const safedlv = settings ? JSON.parse(settings) : undefined;
  const initialized = client.waitForEvent("initialized");
  await client.attachRequest({ mode: "local", processId, safedlv });
  await initialized;
  const functions = { breakpoints: [{ name: "main.greeting" }] };
  const named = await client.setFunctionBreakpointsRequest(functions);
  say({ verified: named.body.breakpoints[0].verified });
  const reached = client.waitForEvent("stopped");
  await client.configurationDoneRequest();
  say("running");
  const first = (await reached).body;
  say({ reason: first.reason });
  await client.setFunctionBreakpointsRequest({ breakpoints: [] });
  const breakpoints = [{ line: Number(line), condition: 'v.Path == "/you"' }];
  const set = await client.setBreakpointsRequest({ source: { path: source }, breakpoints });
  say({ verified: set.body.breakpoints[0].verified });
  const stopped = client.waitForEvent("stopped");
  await client.continueRequest({ threadId: first.threadId });
  const threadId = (await stopped).body.threadId;
  await client.threadsRequest();
  const frame = (await client.stackTraceRequest({ threadId, levels: 5 })).body.stackFrames[0];
  say({ function: frame.name, line: frame.line });
  const scopes = await client.scopesRequest({ frameId: frame.id });
  const { variablesReference } = scopes.body.scopes[0];
  const variables = await client.variablesRequest({ variablesReference });
  say({ variables: variables.body.variables.map((one) => one.name) });
  const evaluated = await client.evaluateRequest({ expression: "v.Path", frameId: frame.id });
  say({ evaluated: evaluated.body.result });
  const stepped = client.waitForEvent("stopped");
  await client.nextRequest({ threadId });
  say({ reason: (await stepped).body.reason });
  const logs = [{ line: Number(line), logMessage: "path {v.Path}" }];
  await client.setBreakpointsRequest({ source: { path: source }, breakpoints: logs });
  const logged = new Promise((resolve) => {
    client.on("output", (event) => event.body.output.includes("path ") && resolve(event.body.output));
  });
  await client.continueRequest({ threadId });
  say("running");
  say({ logged: (await logged).includes("/you") });
  const paused = client.waitForEvent("stopped");
  await client.pauseRequest({ threadId });
  say({ reason: (await paused).body.reason });
  const terminated = client.waitForEvent("terminated");
  await client.disconnectRequest({});
  await terminated;
  say("left");
}

session().then(
  () => process.exit(0),
  (error) => {
    say({ failed: String(error) });
    process.exit(1);
  },
);
