-- Knows the tokens of each client, and refuses the requests of one that has used up its budget. Hosts count them, also over a restart: this
-- program asks each host, and adds up. So a reload forgets nothing, and several gateways know the same.
local hosts = {$hosts}
local budgets = {$budgets}
local seconds = {minute = 60, day = 86400}
local answers = {} -- by host: when it answered, and by window and client its tokens of prompts and generated ones

local function now()
    return core.now().sec
end

local function ask(host)
    local socket = core.tcp()
    socket:settimeout(5)
    local text
    if socket:connect("unix@$socket") then
        socket:send("GET /firstlight/usage HTTP/1.0\r\nx-firstlight-host: " .. host .. "\r\n\r\n")
        text = socket:receive("*a")
    end
    socket:close()
    local body = text and text:match("^HTTP/1%.%d 200 .-\r\n\r\n(.*)")
    if body == nil then
        return
    end
    local answer = {at = now(), minute = {}, day = {}}
    for window, client, prompt, generated in body:gmatch("(%a+) (%S+) (%d+) (%d+)\n") do
        answer[window][client] = {tonumber(prompt), tonumber(generated)}
    end
    answers[host] = answer
end

for _, host in ipairs(hosts) do
    core.register_task(function()
        repeat
            pcall(ask, host)
            core.sleep($pause_s)
        -- A process of before a reload only finishes its streams.
        until core.get_info().Stopping ~= 0
    end)
end

-- The tokens of a client in the window of now. A host that does not answer is remembered for as long as its window lasts.
local function used(client, window)
    local prompt, generated = 0, 0
    for _, answer in pairs(answers) do
        local own = answer[window][client]
        if own and answer.at // seconds[window] == now() // seconds[window] then
            prompt, generated = prompt + own[1], generated + own[2]
        end
    end
    return prompt, generated
end

core.register_action("budget", {"http-req"}, function(txn)
    local client = txn:get_var("txn.client")
    local left, wait = {}, nil
    for _, window in ipairs({"minute", "day"}) do
        local most = budgets[client][window]
        if most then
            local prompt, generated = used(client, window)
            local rest = math.max(most - prompt - generated, 0)
            table.insert(left, string.format("%d of %d tokens left in this %s", rest, most, window))
            if rest == 0 then
                wait = seconds[window] - now() % seconds[window]
            end
        end
    end
    if wait then
        local body = string.format('$body', table.concat(left, ", "))
        local headers = {["content-type"] = {"application/json"}, ["retry-after"] = {tostring(wait)}}
        txn:done(txn:reply({status = 429, reason = "Too Many Requests", headers = headers, body = body}))
    end
end)

-- For traffic.py: of each client and window the tokens and the limit, and of each host whether it counts.
core.register_cli({"show", "tokens"}, "show tokens : tokens of clients", function(applet)
    local lines = {}
    for client, limits in pairs(budgets) do
        for window, _ in pairs(seconds) do
            local prompt, generated = used(client, window)
            table.insert(lines, string.format("client %s %s %d %d %d", client, window, prompt, generated, limits[window] or 0))
        end
    end
    for _, host in ipairs(hosts) do
        table.insert(lines, string.format("host %s %d", host, answers[host] and now() - answers[host].at or -1))
    end
    applet:send(table.concat(lines, "\n") .. "\n")
end)
