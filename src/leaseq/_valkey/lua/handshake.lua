-- The first call of a process: what its user may not do.

is_kept = false -- it may just be asked again

local handshake = lazily(function()
  -- Ask the server about a command: true, its user may give it; false, or nil: there is no such one.
  local function may(command)
    local check = redis.acl_check_cmd
    local name, second = command:match("^(%l+)|?(%l*)$")
    local known, allowed
    if not check then
      return true -- it cannot be asked; what may not be given is refused later
    elseif command == "eval" or command == "fcall" or second ~= "" then
      known, allowed = pcall(check, name, second, 0)
    else
      known, allowed = pcall(check, name, command:find("publish") and waiters.channel() or KEYS[1])
    end
    if known then
      return allowed
    end
  end

  -- Remember the process, and say which of some commands its user may not give; with a "?" those that
  -- the server does not have.
  local function hello()
    local result = { "ok" }
    for _ = 1, take_number() do
      local command = take()
      local allowed = may(command)
      if allowed == nil then
        result[#result + 1] = "?" .. command
      elseif not allowed then
        result[#result + 1] = command
      end
    end
    pcall(remember_process) -- a full server does not: no matter
    return result
  end

  return {
    hello = hello,
  }
end)

local ops = { hello = handshake }
