-- Neovim with nvim-dap: safedlv in the place of dlv dap.
local dap = require("dap")

dap.adapters.safedlv = {
  type = "server",
  port = "${port}",
  executable = { command = "safedlv", args = { "dap", "--listen=127.0.0.1:${port}" } },
}

-- A name that is typed is a target as safedlv has it: 1234, name:PATTERN, docker:NAME.
local function ask()
  return vim.fn.input({ prompt = "Target: ", completion = "customlist,v:lua.safedlv_targets" })
end

function _G.safedlv_targets()
  local targets = {}
  for _, line in ipairs(vim.fn.systemlist("safedlv pick --separator '|'")) do
    table.insert(targets, vim.split(line, "|", { plain = true })[1])
  end
  return targets
end

dap.configurations.go = {
  { type = "safedlv", request = "attach", mode = "local", name = "a process or container", processId = ask },
  {
    type = "safedlv",
    request = "attach",
    mode = "local",
    name = "a container, from one beside it",
    processId = ask,
    safedlv = { via = "sidecar" },
  },
}
