-- Answers a request that is too large when all of it has arrived: HAProxy resets an HTTP/2 stream that it answers earlier, and the
-- client then sees no answer.
core.register_service("too_large", "http", function(applet)
    repeat
        local part = applet:receive(65536)
    until part == nil or #part == 0
    local body = '$body'
    applet:set_status(413)
    applet:add_header("content-type", "application/json")
    applet:add_header("content-length", #body)
    applet:start_response()
    applet:send(body)
end)
