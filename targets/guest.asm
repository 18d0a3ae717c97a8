; The guest that demonstrations and tests boot: 512 bytes of boot code for a PC BIOS.
; Assemble: nasm -f bin -o guest.bin guest.asm ; the bytes stand base64 in guest.py, and a test compares them.
;
; Prints on COM1 and on the screen, waits as long as its config sector says, prints who it is, and halts.
; Config sector = sector 1 of the disk: magic "VMCF1",0 ; word: boot delay in BIOS ticks (18.2 per second) ;
; at 8: host name, zero-terminated ; at 72: data text, zero-terminated.

        bits 16
        org 0x7c00

CONFIG  equ 0x7e00
DELAY   equ CONFIG + 6
NAME    equ CONFIG + 8
TEXT    equ CONFIG + 72
TICKS   equ 0x046c                      ; BIOS data area: counted up by the timer interrupt
COM1    equ 0x3f8

start:  cli
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7c00
        sti
        cld
        jmp     0:main                  ; some BIOSes start at 07c0:0000

main:   push    dx                      ; the boot drive
        mov     ax, 0x00e3              ; 9600 baud, 8 bits, no parity, 1 stop bit
        xor     dx, dx
        int     0x14
        mov     si, banner
        call    print

        pop     dx
        mov     ax, 0x0201              ; read one sector ...
        mov     cx, 0x0002              ; ... cylinder 0, sector 2 (counted from 1)
        mov     dh, 0
        mov     bx, CONFIG
        int     0x13
        jc      noconf
        mov     si, CONFIG
        mov     di, magic
        mov     cx, 6
        repe    cmpsb
        jne     noconf

        mov     bx, [DELAY]
        mov     dx, [TICKS]             ; the low word wraps after an hour; differences stay right
wait1:  hlt
        mov     ax, [TICKS]
        sub     ax, dx
        cmp     ax, bx
        jb      wait1

        mov     byte [CONFIG + 511], 0  ; whatever the sector holds, printing ends
        mov     si, booted
        call    print
        mov     si, NAME
        cmp     byte [si], 0
        jne     named
        mov     si, noname
named:  call    print
        mov     si, data
        call    print
        mov     si, TEXT
        call    print
        mov     si, newline
        call    print
        jmp     halt

noconf: mov     si, booted
        call    print
        mov     si, noname
        call    print
        mov     si, data
        call    print
        mov     si, none
        call    print
halt:   hlt
        jmp     halt

print:  lodsb
        test    al, al
        jz      .done
        push    si
        push    ax
        mov     ah, 0x0e                ; screen
        mov     bx, 7
        int     0x10
        mov     dx, COM1 + 5
        mov     cx, 0xffff              ; bounded: a machine may have no serial port
.busy:  in      al, dx
        test    al, 0x20
        loopz   .busy
        mov     dx, COM1
        pop     ax
        out     dx, al
        pop     si
        jmp     print
.done:  ret

magic:  db      "VMCF1", 0
banner: db      "CLONEJOB GUEST", 13, 10, "clonejob guest: power on", 13, 10, 0
booted: db      "clonejob guest: BOOTED hostname=", 0
noname: db      "NOT-ADAPTED", 0
data:   db      " data=", 0
none:   db      "none"
newline: db     13, 10, 0

        times 440 - ($ - $$) db 0       ; disk signature and an empty partition table follow
        times 510 - ($ - $$) db 0
        dw      0xaa55
