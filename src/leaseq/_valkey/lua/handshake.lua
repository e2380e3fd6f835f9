-- The first call of a process: what its user may not do.

is_kept = false -- it may just be asked again

local handshake = lazily(function()
  local function may(command)
    if command == "eval" then
      return redis.acl_check_cmd(command, "", 0)
    elseif command == "fcall" or command == "function|load" then
      local name, second = command:match("^(%l+)|?(%l*)$")
      local known, allowed = pcall(redis.acl_check_cmd, name, second, 0)
      return known and allowed -- some servers have no functions
    end
    return redis.acl_check_cmd(command, command:find("publish") and waiters.channel() or KEYS[1])
  end

  -- Remember the process, and say which of some commands its user may not give.
  local function hello()
    local result = { "ok" }
    for _ = 1, take_number() do
      local command = take()
      if not may(command) then
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
