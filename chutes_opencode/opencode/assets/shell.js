// Runs inside `opencode serve`: marks what an agent's shell starts with the session it belongs to,
// so that what is left of it can be ended with the prompt, and keeps the server's secrets out of
// it. A variable can only be set here, not removed, so the secrets are empty.
const HIDDEN = ["OPENCODE_SERVER_PASSWORD", "CHUTES_OPENCODE_LEASE"]

export const Shell = async () => ({
  "shell.env": async (input, output) => {
    for (const name of HIDDEN) output.env[name] = ""
    output.env.CHUTES_OPENCODE_SESSION = input.sessionID ?? ""
  },
})
