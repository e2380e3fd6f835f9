-- What a process asks at first.

number = nil -- nothing is kept of it: it may just be asked again

local introducing = lazily(function()
  local function may(command)
    if command == "eval" then
      return redis.acl_check_cmd(command, "", 0)
    end
    return redis.acl_check_cmd(command, command:find("publish") and waking.channel or KEYS[1])
  end

  -- A process is there; which of some commands may its user not give?
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

local ops = { hello = introducing }
